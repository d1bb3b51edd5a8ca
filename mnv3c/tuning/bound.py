"""The least that a layer can cost on a core, with any schedule of a path's kernels.

Two things that no schedule avoids are added, as the simulated core adds cycles and waits for lines:

- *Arithmetic*: products, requantisation, permutations and vector stores as they were executed, all units that
  can take an instruction shared out perfectly, every load, copy, address and branch for nothing. The work is
  bounded by each set of units: the cycles of all that can go nowhere else, over the number of units.
- *Lines* that no order of loops keeps in a cache of the lines used last; see ``fills``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mnv3c.bench import isa, llvm
from mnv3c.ir.graph import Graph
from mnv3c.targets import Cache, Target
from mnv3c.tuning.devices.base import Candidate

# Instructions whose number follows from the layer and the path's layout, not from a schedule.
WORK = (
    *isa.MULTIPLY_ACCUMULATE,
    "high multiply",
    "pairwise",
    "narrow",
    "permute",
    "vector arithmetic",
    "floating point",
    "vector store",
)


@dataclass(frozen=True)
class Traffic:
    """Bytes of a layer that is measured alone: a run converts its inputs, computes, and converts its outputs.

    Attributes:
        constants: weights and tables.
        direct: tensors that the layer reads or writes in the form in which they come and go.
        read, written: tensors in the path's own form; a conversion touches them, and another form of them.
            What is written over what is read counts once, as read.
    """

    constants: int
    direct: tuple[int, ...] = ()
    read: tuple[int, ...] = ()
    written: tuple[int, ...] = ()

    @property
    def touched(self) -> tuple[int, ...]:
        """Each array that a run touches."""
        return (self.constants, *self.direct, *(2 * (*self.read, *self.written)))


@dataclass(frozen=True)
class Bound:
    """Cycles of one layer.

    Attributes:
        arithmetic: of the units that compute.
        lines: waiting for lines.
    """

    arithmetic: float
    lines: float

    @property
    def cycles(self) -> float:
        return self.arithmetic + self.lines


def of(core: Target, executed: Mapping[int, int], traffic: Traffic) -> Bound:
    """The bound of a layer that was run once.

    Args:
        executed: instruction words to the times they were executed.

    Raises:
        Mnv3cError: LLVM's tools are missing.
    """
    work = {w: n for w, n in executed.items() if isa.decode(w).kind in WORK}
    texts = dict(zip(work, llvm.disassemble(list(work)), strict=True)) if work else {}
    timings = llvm.timings(texts.values(), core.mca_cpu)
    busy: dict[frozenset[str], float] = defaultdict(float)
    for word, count in work.items():
        for use in timings[texts[word]].uses:
            busy[frozenset(use.units)] += use.cycles * count
    cache = core.core.cache if core.core is not None else None
    return Bound(pressure(busy), waits(traffic, cache) if cache is not None else 0.0)


def pressure(busy: Mapping[frozenset[str], float]) -> float:
    """Cycles that units need for work of which each piece says which of them can take it."""
    unions: set[frozenset[str]] = set()
    for units in busy:
        unions |= {units, *(units | other for other in unions)}
    return max((sum(c for u, c in busy.items() if u <= some) / len(some) for some in unions), default=0.0)


def waits(traffic: Traffic, cache: Cache) -> float:
    """Cycles of waiting for lines, from both levels."""
    l1, l2 = cache.l1d_kib << 10, cache.l2_kib << 10
    first = fills(traffic, l1, cache.l1d_ways)
    second = fills(traffic, l2, cache.l2_ways, before=l1)
    return (first * cache.l1_miss_cycles + second * cache.l2_miss_cycles) / cache.line_bytes


def fills(traffic: Traffic, capacity: int, ways: int, before: int = 0) -> float:
    """Bytes that a layer fills at least into a cache, in the steady state of one run after the other.

    - Constants and direct tensors: between their uses in two runs lie all other lines of a run, so they are
      gone from each set that gets more lines than it has ways. That holds for a second level too: where it
      overflows, the first one does, and asks it for each line once a run.
    - What the layer reads in its own form: at its beginning the cache holds no more than its capacity of it.
    - What it writes: last used before the inputs were converted, which touches these in two forms.

    Args:
        capacity: of the cache, in bytes.
        before: capacity of the cache in front of it, which may hold what this one has lost.
    """
    once = traffic.constants + sum(traffic.direct)
    read, written, held = sum(traffic.read), sum(traffic.written), capacity + before
    gone = once * overflow([size * ways / capacity for size in traffic.touched], ways)
    apart = gone + max(read - held, 0) + max(written - max(held - 2 * read, 0), 0)
    return max(apart, once + read + written - held, 0.0)


def overflow(arrays: Sequence[float], ways: int) -> float:
    """Share of a cache's sets that surely get more lines than they have ways, wherever the arrays begin.

    An array of 2.3 lines a set gives each set two, and three tenths of the sets a third one. How many of
    these meet in a set depends on the addresses; the least follows from their number alone.

    Args:
        arrays: of each, its lines over the number of sets.
    """
    missing = ways + 1 - sum(math.floor(a) for a in arrays)
    if missing <= 0:
        return 1.0
    share, among = 0.0, 0.0
    for number, part in enumerate(sorted((a % 1 for a in arrays), reverse=True), start=1):
        among += part
        if number >= missing:
            share = max(share, (among - (missing - 1)) / (number - (missing - 1)))
    return share


def traffic(candidate: Candidate, graph: Graph, read: Collection[str], written: Collection[str]) -> Traffic:
    """What a candidate of one layer touches.

    Args:
        graph: of the layer.
        read, written: names of the tensors that are converted.
    """
    inputs = [(name in read, t.bytes) for name, t in zip(graph.inputs, candidate.inputs, strict=True)]
    outputs = [(name in written, t.bytes) for name, t in zip(graph.outputs, candidate.outputs, strict=True)]
    own = sum(size for converted, size in (*inputs, *outputs) if converted)
    over = own > candidate.arena_bytes
    return Traffic(
        candidate.constant_bytes,
        tuple(size for converted, size in (*inputs, *outputs) if not converted),
        tuple(size for converted, size in inputs if converted),
        () if over else tuple(size for converted, size in outputs if converted),
    )
