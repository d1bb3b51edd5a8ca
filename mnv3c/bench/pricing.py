"""Estimated cycles of counted blocks on a core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv3c.bench import isa, llvm, scoreboard
from mnv3c.bench.code import Block, Code
from mnv3c.targets import Target

# The blocks that make up this share of all instructions are priced, the rest at their average.
_COVERAGE = 0.998


@dataclass(frozen=True, eq=False)
class Pricing:
    """A core's price of every block.

    Attributes:
        method: ``scoreboard`` (in-order) or ``pipeline simulation`` (out-of-order), with LLVM's model.
        cycles: of one execution of each block, L1 hits and right predictions assumed.
        bound: cycles that each block's multiply-accumulates need if nothing else used their units.
    """

    method: str
    blocks: tuple[Block, ...]
    cycles: np.ndarray
    bound: np.ndarray

    def of(self, counts: np.ndarray) -> float:
        """Cycles of a region, from its ``instruction_counts``."""
        return float(self.cycles @ counts[[b.first for b in self.blocks]]) if self.blocks else 0.0

    def bound_of(self, counts: np.ndarray) -> float:
        """Cycles that the multiply-accumulates of a region need."""
        return float(self.bound @ counts[[b.first for b in self.blocks]]) if self.blocks else 0.0


def price(code: Code, blocks: Sequence[Block], counts: np.ndarray, target: Target) -> Pricing:
    """Price the blocks of ``counts`` (everything that was run) on the core ``target``.

    Raises:
        Mnv3cError: LLVM's tools are missing.
    """
    lengths = np.array([b.last - b.first + 1 for b in blocks], np.int64)
    work = counts[[b.first for b in blocks]] * lengths
    order = np.argsort(-work, kind="stable")
    covered = np.cumsum(work[order])
    hot = order[: int(np.searchsorted(covered, _COVERAGE * covered[-1])) + 1]

    words = np.unique(np.concatenate([code.words[blocks[i].first : blocks[i].last + 1] for i in hot]))
    text = dict(zip(words.tolist(), llvm.disassemble(words.tolist()), strict=True))
    bodies = [tuple(text[int(w)] for w in code.words[blocks[i].first : blocks[i].last + 1]) for i in hot]
    timings = llvm.timings(text.values(), target.mca_cpu)
    in_order = target.core is not None and target.core.pipeline == "in-order"
    if in_order:
        width = target.core.issue_width if target.core else 2
        known: dict[tuple[str, ...], float] = {}
        for body in bodies:
            if body not in known:
                known[body] = scoreboard.block_cycles(body, timings, width)
        prices = [known[body] for body in bodies]
    else:
        unique = list(dict.fromkeys(bodies))
        found = dict(zip(unique, llvm.block_cycles(unique, target.mca_cpu), strict=True))
        prices = [found[body] for body in bodies]

    cycles = np.zeros(len(blocks))
    cycles[hot] = prices
    average = float((cycles * counts[[b.first for b in blocks]]).sum() / work[hot].sum())
    cold = np.setdiff1d(np.arange(len(blocks)), hot)
    cycles[cold] = average * lengths[cold]
    bound = np.zeros(len(blocks))
    for i, body in zip(hot, bodies, strict=True):
        for word, instruction in zip(code.words[blocks[i].first : blocks[i].last + 1], body, strict=True):
            if isa.decode(int(word)).kind in isa.MULTIPLY_ACCUMULATE:
                bound[i] += timings[instruction].throughput
    method = "scoreboard" if in_order else "pipeline simulation"
    return Pricing(f"{method}, LLVM's {target.mca_cpu}", tuple(blocks), cycles, bound)
