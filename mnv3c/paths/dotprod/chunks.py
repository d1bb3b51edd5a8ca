"""In which pieces a 1x1 convolution walks over its input, and how workers divide them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mnv3c.ir.graph import Shape
from mnv3c.paths.common.shares import MOST, Split, split
from mnv3c.paths.dotprod.layout import ROW, TILE, grid, quads
from mnv3c.paths.dotprod.windows import Block

# A multiple of the blocks that any kernel takes at once.
MULTIPLE = 12
# Shares that pixels may be divided into; what is left of the workers divides the output channels.
_PIXEL_SHARES = (1, 2, 4)
# Columns of blocks up to which rows are worth a kernel of their own.
_NARROW = 3


@dataclass(frozen=True)
class Walk:
    """The units of the input that chunks are made of: blocks, or in narrow maps rows of blocks.

    Attributes:
        units: their number.
        unit: blocks of one.
        block_bytes: of the input.
        edge: pixels of a row's last block that lie in the image, where the units are rows; else 0.
    """

    units: int
    unit: int
    block_bytes: int
    edge: int

    @staticmethod
    def over(shape: Shape, block: Block, matrix: bool) -> Walk:
        """Over a tensor; the kernels of matrix products (``matrix``) leave out no pixels.

        Narrow maps row by row, so that pixels behind the edge cost nothing; others as one row of blocks.
        """
        rows, columns = grid(shape, block)
        edge = shape[1] % 4 if block == ROW and columns <= _NARROW and not matrix else 0
        unit = columns if edge > 1 else 1
        return Walk(rows * columns // unit, unit, quads(shape[2]) * TILE, edge if edge > 1 else 0)

    def row(self, units: int) -> int:
        """Blocks of a row as the kernel sees it that computes ``units``."""
        return self.unit if self.edge else units

    def multiple(self, steps: int) -> int:
        """What chunks should be a multiple of, for a kernel that takes ``MULTIPLE`` blocks in ``steps``."""
        return 1 if self.edge else MULTIPLE // steps


@dataclass(frozen=True)
class Chunks:
    """Chunks of pixels outside, groups of output channels inside; shares divide either or both.

    Attributes:
        size: units (blocks, or rows of them) a chunk.
        count: chunks of that size.
        rest: units of one more chunk, or 0.
        pixels: the chunks by shares.
        groups: the groups by shares.
    """

    size: int
    count: int
    rest: int
    pixels: Split
    groups: Split

    @property
    def parts(self) -> int:
        """Shares of the stage."""
        return self.pixels.parts * self.groups.parts

    @property
    def passes(self) -> int:
        """How often the weights are read."""
        return self.count + (self.rest > 0)

    @property
    def longest(self) -> float:
        """The largest share of all work."""
        sizes = [self.size] * self.count + [self.rest] * (self.rest > 0)
        p = self.pixels
        starts = [(i * p.units + p.parts - 1) // p.parts for i in range(p.parts + 1)]
        most = max(sum(sizes[a:b]) for a, b in itertools.pairwise(starts))
        return most / sum(sizes) * self.groups.longest / self.groups.units

    def loop(self, calls: Sequence[str]) -> str:
        """C around the calls for a chunk and for the rest; they may name ``chunk``, ``first``, ``groups``."""
        begin, end = "share_begin", "share_end"
        lines = []
        first, behind = self.groups.begin, self.groups.end
        if self.pixels.parts > 1 and self.groups.parts > 1:
            n = self.pixels.parts
            lines += [
                f"const int32_t begin = share_begin / {n};",
                f"const int32_t end = (share_end - 1) / {n} + 1;",
            ]
            begin, end = f"(share_begin % {n})", f"((share_end - 1) % {n} + 1)"
            first, behind = self.groups.bound("begin"), self.groups.bound("end")
        if self.groups.parts > 1:
            lines += [f"const int32_t first = {first};", f"const int32_t groups = {behind} - first;"]
        start, condition = "0", f"chunk < {self.count}"
        if self.pixels.parts > 1:
            lines.append(f"const int32_t chunk_end = {self.pixels.bound(end)};")
            start = self.pixels.bound(begin)
            condition = f"{condition} && chunk < chunk_end" if self.rest else "chunk < chunk_end"
        main, *rest = calls
        if self.count > 1 or self.pixels.parts > 1:
            inner = main.replace("\n", "\n  ")
            main = f"for (int32_t chunk = {start}; {condition}; ++chunk) {{\n  {inner}\n}}"
        lines.append(main)
        last = f"if (chunk_end == {self.pixels.units}) " if self.pixels.parts > 1 else ""
        return "\n".join([*lines, *(last + text for text in rest)])


def divisions(units: int, size: int, rest: int, groups: int, workers: int) -> list[Chunks]:
    """Chunks of ``size`` units and one of ``rest``, shared out in every way: few shares of pixels first."""
    count = (units - rest) // size
    passes = count + (rest > 0)
    return [
        Chunks(size, count, rest, split(passes, shares), split(groups, workers // shares))
        for shares in _PIXEL_SHARES
        if shares <= min(passes, workers)
    ]


def chunks_of(units: int, size: int, groups: int, workers: int = MOST) -> Chunks:
    """Chunks of that size, with the fairest shares of them."""
    return min(divisions(units, size, units % size, groups, workers), key=lambda c: c.longest)


def even_chunks(units: int, multiple: int) -> dict[int, tuple[int, int]]:
    """For each number of chunks their size and the last one's if that differs (else 0).

    As even as ``multiple`` allows, which all sizes but the last are a multiple of.
    """
    return {n: even for n in range(1, units + 1) if (even := _even(units, n, multiple)) is not None}


def _even(units: int, n: int, multiple: int) -> tuple[int, int] | None:
    if n == 1:
        return units, 0
    found = []
    for size in (units // n // multiple * multiple, -(-units // n // multiple) * multiple):
        last = units - (n - 1) * size
        if size > 0 and last > 0:
            found.append((size, 0 if last == size else last))
    return min(found, key=max, default=None)
