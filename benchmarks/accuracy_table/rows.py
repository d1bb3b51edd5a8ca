"""Rows of the table: what was measured, and what it must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Check:
    """A number that must reach something; all in percent.

    Attributes:
        quantity: what it is.
        at_most: smaller is better.
    """

    quantity: str
    value: float
    must: float
    aim: float
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """``aim`` or ``must``, whatever is reached; else ``missed``."""
        sign = -1 if self.at_most else 1
        # The shares of images are exact to far better than this.
        reached = [sign * self.value >= sign * bound - 1e-9 for bound in (self.aim, self.must)]
        return "aim" if reached[0] else "must" if reached[1] else "missed"


@dataclass(frozen=True)
class Row:
    """A network, what runs it beside us, and how ours compares.

    Attributes:
        original: what the figures are compared with: a runtime, or the float network in one.
        original_top1, our_top1: in percent; ``None`` where there are no labels.
        signal_to_noise_db: of our outputs against the original's.
        images: how many were classified.
        seconds: to quantise and to classify.
        remark: what else there is to say.
    """

    model: str
    original: str
    original_top1: float | None
    our_top1: float | None
    checks: tuple[Check, ...]
    signal_to_noise_db: float | None
    images: int
    seconds: float
    remark: str = ""


def holds(rows: Sequence[Row]) -> bool:
    """Whether every check reaches what it must."""
    return all(c.verdict != "missed" for row in rows for c in row.checks)


def show(rows: Sequence[Row], as_json: bool) -> None:
    """Print the rows as a table, or as JSON."""
    if as_json:
        found = [asdict(r) | {"verdicts": [c.verdict for c in r.checks]} for r in rows]
        print(json.dumps({"ok": holds(rows), "rows": found}, indent=1))
        return
    table = Table(box=box.MARKDOWN)
    for name in ("model", "original"):
        table.add_column(name, no_wrap=True)
    for name in ("its top-1", "ours", "SQNR, dB", "measured", "value", "must", "aim", "reached", "seconds"):
        table.add_column(name, justify="left" if name in ("measured", "reached") else "right", no_wrap=True)
    for row in rows:
        start = (row.model, row.original, _percent(row.original_top1), _percent(row.our_top1))
        noise = "" if row.signal_to_noise_db is None else f"{row.signal_to_noise_db:.1f}"
        for i, c in enumerate(row.checks):
            first = (*start, noise) if i == 0 else ("", "", "", "", "")
            seconds = f"{row.seconds:.0f}" if i == 0 else ""
            figures = (f"{c.value:.1f}", f"{c.must:.1f}", f"{c.aim:.1f}", c.verdict)
            table.add_row(*first, c.quantity, *figures, seconds)
    Console(width=200).print(table)
    for row in rows:
        if row.remark:
            print(f"{row.model}: {row.remark}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
