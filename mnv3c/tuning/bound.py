"""The least that a layer can cost on a core, with any schedule of a path's kernels.

Two things that no schedule avoids are added, as the simulated core adds cycles and waits for lines:

- *Arithmetic*: products, requantisation, permutations and vector stores as they were executed, all units that
  can take an instruction shared out perfectly, every load, copy, address and branch for nothing. The work is
  bounded by each set of units: the cycles of all that can go nowhere else, over the number of units.
- *Lines*: where a run touches more lines than a cache has, constants have to be filled again: between the
  uses of a line in two runs lie all other lines, and a set of the cache keeps those used last. Lines spread
  evenly over the sets, so those sets overflow that get one more than they have ways. A layer that is measured
  alone also touches its tensors a second time, in the form in which they come and go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mnv3c.bench import isa, llvm
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.targets import Cache, Target

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
class Bound:
    """Cycles of one layer.

    Attributes:
        arithmetic: of the units that compute.
        lines: waiting for constants.
    """

    arithmetic: float
    lines: float

    @property
    def cycles(self) -> float:
        return self.arithmetic + self.lines


def of(core: Target, executed: Mapping[int, int], constants: int, tensors: int = 0) -> Bound:
    """The bound of a layer that was run once.

    Args:
        executed: instruction words to the times they were executed.
        constants, tensors: bytes that the layer reads and writes.

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
    return Bound(
        pressure(busy), waits(constants, constants + 2 * tensors, cache) if cache is not None else 0.0
    )


def pressure(busy: Mapping[frozenset[str], float]) -> float:
    """Cycles that units need for work of which each piece says which of them can take it."""
    unions: set[frozenset[str]] = set()
    for units in busy:
        unions |= {units, *(units | other for other in unions)}
    return max((sum(c for u, c in busy.items() if u <= some) / len(some) for some in unions), default=0.0)


def waits(constants: int, touched: int, cache: Cache) -> float:
    """Cycles of waiting for the lines of so many bytes of constants, in a run that touches so many in all."""
    lines = constants / cache.line_bytes
    first = _overflow(touched, cache.l1d_kib << 10, cache.l1d_ways) * cache.l1_miss_cycles
    return lines * (first + _overflow(touched, cache.l2_kib << 10, cache.l2_ways) * cache.l2_miss_cycles)


def _overflow(touched: int, capacity: int, ways: int) -> float:
    """Part of a cache's sets that get more lines than they have ways."""
    return min(max((touched - capacity) / (capacity / ways), 0.0), 1.0)


def weights(graph: Graph) -> int:
    """Bytes of weights, the least that a layer's constants are."""
    return sum(int(n.weight.size) for n in graph.nodes if isinstance(n, q.QConv))
