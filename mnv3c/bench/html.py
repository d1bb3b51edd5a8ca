"""The report as one self-contained page: inline SVG and CSS, nothing fetched."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv3c.bench.isa import CLASSES
from mnv3c.bench.report import Cost, Placement, Report
from mnv3c.bench.table import count
from mnv3c.codegen.render import render
from mnv3c.errors import Mnv3cError

# How the bars of instructions are divided: label, style, classes.
_GROUPS = (
    ("multiply-accumulate", "g0", ("dot", "matrix", "widening multiply", "multiply")),
    (
        "other vector",
        "g1",
        (
            "high multiply",
            "pairwise",
            "narrow",
            "permute",
            "vector move",
            "vector arithmetic",
            "floating point",
        ),
    ),
    (
        "load and store",
        "g2",
        ("vector load", "vector store", "integer load", "integer store", "prefetch", "atomic"),
    ),
    ("integer, branch, system", "g3", ("integer", "branch", "system", "other")),
)
_BAR_WIDTH, _ROW_HEIGHT = 230, 20
_MAP_WIDTH, _MAP_HEIGHT = 1120, 420
_CHARACTER_WIDTH = 6.2  # of the map's labels, on average


@dataclass(frozen=True)
class Piece:
    """A rectangle of a chart; lengths in pixels."""

    x: float
    y: float
    width: float
    height: float
    style: str = ""
    label: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Bar:
    """One quantity of one layer: a bar of one or several pieces, and its value in words."""

    pieces: tuple[Piece, ...]
    text: str


def write(file: Path, report: Report) -> None:
    """Write the page.

    Raises:
        Mnv3cError: ``file`` cannot be written.
    """
    try:
        file.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise Mnv3cError(f"cannot write the page: {error.strerror or error}", str(file)) from None


def page(report: Report) -> str:
    """The page's HTML."""
    return render(
        "bench/page.html.j2",
        report=report,
        figures=_figures(report),
        groups=_GROUPS,
        rows=_rows(report),
        bar_width=_BAR_WIDTH,
        row_height=_ROW_HEIGHT,
        count=count,
        classes=_classes(report.total),
        map=memory_map(report.arena, report.sizes.arena, len(report.layers)),
        map_width=_MAP_WIDTH,
        map_height=_MAP_HEIGHT,
        map_x=_ticks_x(len(report.layers)),
        map_y=_ticks_y(report.sizes.arena),
    )


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """The figures on top: value, what it is, a remark."""
    total, sizes = report.total, report.sizes
    figures = [
        (
            count(total.instructions),
            "instructions",
            f"{total.instructions / total.macs:.3f} per MAC" if total.macs else "",
        )
    ]
    if total.cycles:
        figures.append(
            (
                count(total.cycles),
                f"cycles on {report.core}",
                f"{total.instructions / total.cycles:.2f} instructions per cycle",
            )
        )
        figures.append(
            (
                f"{total.macs_per_cycle:.1f}",
                "MACs per cycle",
                f"multipliers busy {total.multiply_share:.0%} at the least",
            )
        )
    if total.l1_fills is not None:
        figures.append(
            (count(total.l1_fills), "L1 line fills", f"{count(total.l2_fills)} from beyond the L2")
        )
    figures.append((_kib(sizes.arena), "arena", f"stack {sizes.stack} bytes, heap 0"))
    figures.append(
        (_kib(sizes.beyond_weights), "code and tables", f"beyond {_kib(sizes.int8_weights)} of weights")
    )
    return figures


def _kib(n: int) -> str:
    return f"{n / 1024:.1f} KiB" if n < 100 * 1024 else f"{n / 1024:.0f} KiB"


def _rows(report: Report) -> list[tuple[str, str, list[Bar | None]]]:
    """Each layer: number and title, tip, and bars of instructions, cycles, MACs per cycle."""
    costs = [layer.cost for layer in report.layers]
    most = max((c.instructions for c in costs), default=1) or 1
    slowest = max((c.cycles or 0 for c in costs), default=0) or 1
    densest = max((c.macs_per_cycle or 0 for c in costs), default=0) or 1
    rows: list[tuple[str, str, list[Bar | None]]] = []
    for layer in report.layers:
        c = layer.cost
        cycles = density = None
        if c.cycles is not None:
            tip = f"{c.cycles:,.0f} cycles"
            cycles = Bar((_piece(0, c.cycles / slowest, "cycles", tip),), count(c.cycles))
        if c.macs_per_cycle:
            tip = f"{c.macs:,} MACs; multipliers busy {c.multiply_share or 0:.0%} at the least"
            density = Bar((_piece(0, c.macs_per_cycle / densest, "density", tip),), f"{c.macs_per_cycle:.1f}")
        rows.append(
            (f"{layer.index} {layer.title}", _tip(layer.name, c), [_stacked(c, most), cycles, density])
        )
    return rows


def _tip(name: str, c: Cost) -> str:
    moved = f"{count(c.bytes_loaded)} bytes loaded, {count(c.bytes_stored)} stored"
    fills = (
        f"; lines filled: L1 {count(c.l1_fills)}, L2 {count(c.l2_fills)}" if c.l1_fills is not None else ""
    )
    return f"{name}: {moved}{fills}"


def _stacked(c: Cost, most: int) -> Bar:
    pieces, at = [], 0.0
    for label, style, kinds in _GROUPS:
        n = sum(c.classes.get(k, 0) for k in kinds)
        if n:
            detail = ", ".join(f"{k} {count(c.classes[k])}" for k in kinds if k in c.classes)
            pieces.append(_piece(at, n / most, style, f"{label}: {n:,} ({detail})"))
            at += n / most
    return Bar(tuple(pieces), count(c.instructions))


def _piece(start: float, share: float, style: str, tip: str) -> Piece:
    return Piece(
        round(start * _BAR_WIDTH, 2), 0, round(share * _BAR_WIDTH, 2), _ROW_HEIGHT - 6, style, "", tip
    )


def _classes(total: Cost) -> list[tuple[str, str, str, str]]:
    ordered = sorted(total.classes.items(), key=lambda item: -item[1])
    return [(k, count(n), f"{n / total.instructions:.1%}", CLASSES[k]) for k, n in ordered]


def memory_map(arena: Sequence[Placement], arena_bytes: int, layers: int) -> list[Piece]:
    """Regions as rectangles: time in layers to the right, offset in the arena upwards."""
    pieces = []
    for i, p in enumerate(arena):
        x = p.first / layers * _MAP_WIDTH
        width = (p.last - p.first + 1) / layers * _MAP_WIDTH
        height = p.bytes / arena_bytes * _MAP_HEIGHT
        y = _MAP_HEIGHT - p.offset / arena_bytes * _MAP_HEIGHT - height
        fits = height >= 12 and width >= len(p.region) * _CHARACTER_WIDTH + 4
        spanned = f"layer {p.first}" if p.first == p.last else f"layers {p.first} to {p.last}"
        tip = f"{p.region}: {p.bytes:,} bytes at {p.offset:,}, {spanned}"
        pieces.append(
            Piece(
                round(x, 2),
                round(y, 2),
                round(width, 2),
                round(height, 2),
                _colour(i),
                p.region if fits else "",
                tip,
            )
        )
    return pieces


def _colour(i: int) -> str:
    """Colours of neighbours differ: steps of the golden ratio around the circle of hues."""
    r, g, b = colorsys.hls_to_rgb(i * 0.618034 % 1, 0.66, 0.5)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"


def _ticks_x(layers: int) -> list[tuple[float, str]]:
    step = max(1, -(-layers // 24))
    return [(round((i + 0.5) / layers * _MAP_WIDTH, 2), str(i)) for i in range(0, layers, step)]


def _ticks_y(arena_bytes: int) -> list[tuple[float, str]]:
    """Four to eight round numbers of bytes, and the top."""
    step = 1024
    while arena_bytes / step > 8:
        step *= 2
    marks = [*range(0, arena_bytes - step // 3, step), arena_bytes]
    return [
        (
            round(_MAP_HEIGHT * (1 - m / arena_bytes), 2),
            f"{m / 1024:g} KiB" if m % 1024 == 0 else f"{m / 1024:.1f} KiB",
        )
        for m in marks
    ]
