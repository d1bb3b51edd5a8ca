"""How work is cut into shares that several threads may take, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WORKERS = 4  # threads that a cut is made for
CANDIDATES = (4, 8, 12, 16)


@dataclass(frozen=True)
class Shares:
    """``units`` of work in ``parts`` runs of neighbours, whose sizes differ by one at most."""

    units: int
    parts: int

    @property
    def sizes(self) -> tuple[int, ...]:
        edges = [i * self.units // self.parts for i in range(self.parts + 1)]
        return tuple(b - a for a, b in pairwise(edges))

    def edge(self, share: str) -> str:
        """C expression: the first unit of a share, whose number is in the variable ``share``."""
        each, rest = divmod(self.units, self.parts)
        if rest:
            return f"{share} * {self.units} / {self.parts}"
        return f"{share} * {each}" if each > 1 else share

    @property
    def begin(self) -> str:
        """The first unit of those that a stage is called for (``mnv3c/codegen/program.py``)."""
        return self.edge("share_begin") if self.parts > 1 else "0"

    @property
    def end(self) -> str:
        return self.edge("share_end") if self.parts > 1 else str(self.units)

    @property
    def first(self) -> str:
        """The first share's number: which of ``parts`` scratch areas belongs to the caller."""
        return "share_begin" if self.parts > 1 else "0"

    def with_last(self, value: int) -> str:
        """C expression: ``value`` in the call that computes the last share, else 0."""
        return f"share_end == {self.parts} ? {value} : 0" if self.parts > 1 and value else str(value)


def efficiency(sizes: Sequence[float], workers: int = WORKERS) -> float:
    """Of ``workers`` threads' time, what is used, if each takes the next share as soon as it is free."""
    busy = [0.0] * workers
    for size in sizes:
        busy[busy.index(min(busy))] += size
    return sum(sizes) / (workers * max(busy)) if any(sizes) else 1.0


def cut(units: int, least: int = 1, workers: int = WORKERS) -> Shares:
    """The fewest shares, of at least ``least`` units, that keep all workers about as busy as any number."""
    best = Shares(units, 1)
    for parts in (*range(2, min(WORKERS, units)), *CANDIDATES):
        shares = Shares(units, parts)
        better = efficiency(shares.sizes, workers) > efficiency(best.sizes, workers) + 0.02
        if units // parts >= least and better:
            best = shares
    return best
