"""The report as tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from mnv3c.bench.isa import CLASSES
from mnv3c.bench.report import Cost, Report

_NAME_WIDTH = 52
_COLUMNS = (
    "MACs",
    "instr.",
    "/MAC",
    "cycles",
    "MAC/cycle",
    "mul.",
    "loaded",
    "stored",
    "L1",
    "L2",
)


def heading(report: Report) -> list[str]:
    """Lines that say what was counted, and how."""
    lines = [
        f"[bold]{report.library}[/], path {report.path}, on {report.core}; one run in the steady state,"
        f" counted by {report.counter}",
        escape(f"built with {report.compiler.version}: {' '.join(report.compiler.flags)}"),
    ]
    if report.model:
        lines.append(f"cycles: {report.model}; L1 hits and right predictions assumed")
    return lines


def layers(report: Report) -> Table:
    """Costs of each layer and of the whole run.

    ``mul.`` is the share of the cycles that the multipliers need at the least; L1 and L2 are line fills.
    """
    table = _table("layers", "layer")
    table.columns[0].no_wrap = True
    for column in (*_COLUMNS, "parts"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in report.layers:
        name = f"{layer.index} {layer.title}"
        name = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
        table.add_row(escape(name), *_numbers(layer.cost), str(layer.parts))
    table.add_section()
    table.add_row("whole run", *_numbers(report.total), "", style="bold")
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first)
    return table


def _numbers(c: Cost) -> list[str]:
    return [
        count(c.macs),
        count(c.instructions),
        f"{c.instructions / c.macs:.3f}" if c.macs else "",
        count(c.cycles),
        f"{c.macs_per_cycle:.1f}" if c.macs_per_cycle else "",
        f"{c.multiply_share:.0%}" if c.multiply_share is not None else "",
        count(c.bytes_loaded),
        count(c.bytes_stored),
        count(c.l1_fills),
        count(c.l2_fills),
    ]


def classes(report: Report) -> Table:
    """Executed instructions by class."""
    table = _table("instructions by class", "class")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what", style="dim")
    for kind, n in sorted(report.total.classes.items(), key=lambda item: -item[1]):
        table.add_row(kind, count(n), f"{n / report.total.instructions:.1%}", CLASSES[kind])
    return table


def memory(report: Report) -> Table:
    """Sizes in bytes."""
    s = report.sizes
    table = _table("memory", "what")
    table.add_column("bytes", justify="right")
    for what, bytes_ in (
        ("arena", s.arena),
        ("peak stack of a run", s.stack),
        ("writable beyond arena and stack", s.writable),
        (".text, all paths", s.text),
        (".rodata, all paths", s.rodata),
        ("int8 weights of the network", s.int8_weights),
        (".text and .rodata beyond them", s.beyond_weights),
    ):
        table.add_row(what, f"{bytes_:,}")
    return table


def threads(report: Report) -> Table:
    """Balance of the split between workers."""
    table = _table("threads, by instructions", "workers")
    table.add_column("critical path / total", justify="right")
    table.add_column("workers' time used", justify="right")
    for t in report.threads:
        table.add_row(str(t.workers), f"{t.share:.3f}", f"{t.efficiency:.0%}")
    return table


def count(n: float | None) -> str:
    """A number in three digits or more: ``812``, ``4.21 k``, ``25.8 M``; empty for ``None``."""
    if n is None:
        return ""
    if n < 1000:
        return f"{n:.0f}"
    unit = "k"
    n /= 1000
    if n >= 999.5:
        n, unit = n / 1000, "M"
    return f"{n:.{2 if n < 9.995 else 1 if n < 99.95 else 0}f} {unit}"
