"""Estimated cycles without LLVM's tools, from the tables of ``targets/cores``.

A basic block cannot be faster than its busiest pipes and the issue width allow; compiled kernels take
``stalls`` times as long on average. Coarser than ``prices.py``: it sees no latencies, so it does not tell a
good order of instructions from a bad one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mnv3c.bench import isa
from mnv3c.bench.code import Code, basic_blocks
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Core, Target


class TablePrices:
    """Cycles of blocks on one core."""

    def __init__(self, target: Target) -> None:
        """Raises:
        Mnv3cError: there is no table for the core.
        """
        if target.core is None or not target.core.units:
            raise Mnv3cError("has no table of units; install LLVM's tools", target.name)
        self._core = target.core

    @property
    def method(self) -> str:
        """For people and records."""
        return f"bound by pipes and issue width, times {self._core.stalls:g} for stalls (no LLVM tools found)"

    def cycles(self, code: Code, counts: Sequence[np.ndarray]) -> list[float]:
        """Cycles of each candidate, as ``PriceList.cycles``."""
        return [self._one(code, c) for c in counts]

    def _one(self, code: Code, counts: np.ndarray) -> float:
        total = 0.0
        for block in basic_blocks(code, counts):
            words = code.words[block.first : block.last + 1]
            kinds = Counter(isa.decode(int(w)).kind for w in words)
            total += bound(self._core, kinds) * int(counts[block.first])
        return total * self._core.stalls


def bound(core: Core, kinds: Mapping[str, int]) -> float:
    """The least cycles that instructions of these classes take in a steady loop, latencies aside.

    For each set of pipes: the work that no other pipe can take, over the number of pipes.
    """
    least = sum(kinds.values()) / core.issue_width
    for pipes in {u.pipes for u in core.units}:
        inside = (u for u in core.units if set(u.pipes) <= set(pipes))
        work = sum(u.cycles * kinds.get(kind, 0) for u in inside for kind in u.kinds)
        least = max(least, work / len(pipes))
    return least
