"""In which pieces a 1x1 convolution walks over its input, and how workers divide them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mnv3c.paths.common.shares import MOST, Split, split

# Bytes of a 32 KiB L1 with 4 ways for a chunk of the input and the lines that a group of output channels
# writes, and for these with the weights of a group and of the next one.
_CHUNK_BYTES = 26 * 1024
_L1_BYTES = 31 * 1024
_LINE = 64
# What a further pass over the weights costs, beside the whole stage.
_PASS = 0.05


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


def plan_chunks(
    units: int, unit_blocks: int, block_bytes: int, multiple: int, groups: int, group_bytes: int
) -> Chunks:
    """Few chunks that stay in L1, and fair shares of them.

    Args:
        unit_blocks: blocks a unit.
        block_bytes: of the input.
        multiple: what every chunk's size but the last one's is a multiple of.
        groups: of output channels.
        group_bytes: weights of a group.
    """
    room = min(_CHUNK_BYTES, _L1_BYTES - 2 * group_bytes)
    most = max(room // (unit_blocks * (block_bytes + _LINE)), multiple)
    fitting = {n: m for n in range(1, units + 1) if (m := _even(units, n, multiple)) and max(m) <= most}
    least = min(fitting)
    candidates = [
        _chunks(units, size, rest, groups, shares)
        for shares in (1, 2, MOST)
        for n, (size, rest) in fitting.items()
        if n >= shares
    ]
    return min(candidates, key=lambda c: c.longest * (1 + _PASS * (c.passes - least)))


def chunks_of(units: int, size: int, groups: int) -> Chunks:
    """Chunks of that size, with the fairest shares of them."""
    rest = units % size
    candidates = [_chunks(units, size, rest, groups, n) for n in (1, 2, MOST) if n <= -(-units // size)]
    return min(candidates, key=lambda c: c.longest)


def _even(units: int, n: int, multiple: int) -> tuple[int, int] | None:
    """Size of ``n`` chunks and of the last one if that differs (else 0), as even as ``multiple`` allows."""
    if n == 1:
        return units, 0
    found = []
    for size in (units // n // multiple * multiple, -(-units // n // multiple) * multiple):
        last = units - (n - 1) * size
        if size > 0 and last > 0:
            found.append((size, 0 if last == size else last))
    return min(found, key=max, default=None)


def _chunks(units: int, size: int, rest: int, groups: int, pixel_shares: int) -> Chunks:
    count = (units - rest) // size
    return Chunks(
        size, count, rest, split(count + (rest > 0), pixel_shares), split(groups, MOST // pixel_shares)
    )
