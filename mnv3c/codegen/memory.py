"""Memory plan: a byte offset in one arena for every region, known at compile time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv3c.codegen.program import Program, Region

ARENA_ALIGN = 64


@dataclass(frozen=True)
class Placement:
    """Where a region lies and while which stages (inclusive indices) it is alive."""

    region: Region
    offset: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of all arena regions.

    Attributes:
        arena_bytes: the size of the arena, a multiple of ``ARENA_ALIGN``.
        lower_bound: the most bytes alive in any one stage; no plan can be smaller.
    """

    placements: tuple[Placement, ...]
    arena_bytes: int
    lower_bound: int

    def offset(self, region: str) -> int:
        return next(p.offset for p in self.placements if p.region.name == region)


@dataclass
class _Block:
    """Regions that share one address, as one thing to place."""

    members: list[tuple[Region, int, int]]

    @property
    def bytes(self) -> int:
        return max(_aligned(r.bytes, ARENA_ALIGN) for r, _, _ in self.members)

    @property
    def first(self) -> int:
        return min(first for _, first, _ in self.members)

    @property
    def last(self) -> int:
        return max(last for _, _, last in self.members)


def _aligned(n: int, align: int) -> int:
    return -(-n // align) * align


def plan_memory(program: Program) -> MemoryPlan:
    """Best fit over lifetimes, several orders tried, the smallest arena kept.

    A region lives from the stage that first writes it to the last one that reads it; scratch lives
    for its stage. Every offset is a multiple of ``ARENA_ALIGN``. Deterministic.
    """
    lifetimes = _lifetimes(program)
    blocks = _merge_in_place(program, lifetimes)
    best: tuple[int, list[tuple[_Block, int]]] | None = None
    for order in (_by_bytes, _by_area, _by_start):
        placed = _place(sorted(blocks, key=order))
        size = max((offset + b.bytes for b, offset in placed), default=0)
        if best is None or size < best[0]:
            best = (size, placed)
    size, placed = best or (0, [])
    placements = [
        Placement(region, offset, first, last)
        for block, offset in placed
        for region, first, last in block.members
    ]
    placements.sort(key=lambda p: (p.first, p.offset, p.region.name))
    bound = max(
        (sum(b.bytes for b in blocks if b.first <= i <= b.last) for i in range(len(program.stages))),
        default=0,
    )
    return MemoryPlan(tuple(placements), max(_aligned(size, ARENA_ALIGN), ARENA_ALIGN), bound)


def _lifetimes(program: Program) -> list[tuple[Region, int, int]]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, stage in enumerate(program.stages):
        for name in stage.writes:
            first.setdefault(name, i)
        for name in (*stage.reads, *stage.writes):
            last[name] = i
    spans = [
        (r, first[r.name], last[r.name]) for r in program.regions if r.external is None and r.name in first
    ]
    spans += [(r, i, i) for i, stage in enumerate(program.stages) for r in stage.scratch]
    return spans


def _merge_in_place(program: Program, spans: Sequence[tuple[Region, int, int]]) -> list[_Block]:
    block_of = {r.name: _Block([(r, first, last)]) for r, first, last in spans}
    for i, stage in enumerate(program.stages):
        for read, write in stage.in_place:
            source, target = block_of.get(read), block_of.get(write)
            if source is None or target is None or source is target:
                continue
            # The write may start where the read ends, in this very stage, and nowhere else.
            if source.last == i and target.first == i:
                source.members += target.members
                for region, _, _ in target.members:
                    block_of[region.name] = source
    unique: list[_Block] = []
    for block in block_of.values():
        if not any(block is b for b in unique):
            unique.append(block)
    return unique


def _by_bytes(b: _Block) -> tuple[int, int, str]:
    return (-b.bytes, b.first, b.members[0][0].name)


def _by_area(b: _Block) -> tuple[int, int, str]:
    return (-b.bytes * (b.last - b.first + 1), b.first, b.members[0][0].name)


def _by_start(b: _Block) -> tuple[int, int, str]:
    return (b.first, -b.bytes, b.members[0][0].name)


def _place(blocks: Sequence[_Block]) -> list[tuple[_Block, int]]:
    """Put each block into the smallest gap that takes it among those alive at the same time."""
    placed: list[tuple[_Block, int]] = []
    for block in blocks:
        alive = sorted(
            ((o, o + b.bytes) for b, o in placed if b.first <= block.last and block.first <= b.last)
        )
        best_offset, best_gap, end = None, None, 0
        for low, high in alive:
            gap = low - end
            if gap >= block.bytes and (best_gap is None or gap < best_gap):
                best_offset, best_gap = end, gap
            end = max(end, high)
        placed.append((block, end if best_offset is None else best_offset))
    return placed
