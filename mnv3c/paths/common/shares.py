"""How a stage's work is cut into shares that workers compute at the same time.

A stage splits *units* (rows, blocks of pixels, groups of channels) into ``parts`` runs of neighbours
whose lengths differ by at most one. The C of a stage finds its first unit and the one after its last
from ``share_begin`` and ``share_end`` (see ``codegen.program.Stage``): one share's, or all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mnv3c.codegen.program import Region
from mnv3c.ir.graph import Shape

# Phones have 4 fast cores or fewer; more shares cost memory and waiting.
MOST = 4
# Of a map; below, waking other threads costs more than they save.
LEAST_ELEMENTS = 16 * 1024


@dataclass(frozen=True)
class Split:
    """``units`` in ``parts`` runs."""

    units: int
    parts: int

    def bound(self, share: str) -> str:
        """C: the first unit of a share; of share ``parts``, the number of units.

        Longer runs come first: workers that take the next share when they are free end up even.
        """
        if self.units % self.parts == 0:
            each = self.units // self.parts
            return share if each == 1 else f"{share} * {each}"
        return f"({share} * {self.units} + {self.parts - 1}) / {self.parts}"

    @property
    def begin(self) -> str:
        """C: the first unit to compute."""
        return self.bound("share_begin") if self.parts > 1 else "0"

    @property
    def end(self) -> str:
        """C: the unit behind the last one to compute."""
        return self.bound("share_end") if self.parts > 1 else str(self.units)

    @property
    def longest(self) -> int:
        """Units of the longest run."""
        return -(-self.units // self.parts)


def split(units: int, most: int = MOST) -> Split:
    """At most ``most`` shares, none of them empty."""
    return Split(units, max(1, min(units, most)))


def split_rows(shape: Shape) -> Split:
    """Rows of a map that is computed value by value."""
    return split(shape[0], MOST if math.prod(shape) >= LEAST_ELEMENTS else 1)


def for_shares(scratch: Iterable[Region], parts: int) -> tuple[Region, ...]:
    """Scratch with a slice for every share, one behind the other; see ``own``."""
    return tuple(
        Region(r.name, slice_bytes(r.bytes) * parts if parts > 1 else r.bytes, r.align, r.external)
        for r in scratch
    )


def own(region: Region, parts: int) -> str:
    """C: the start of a share's own slice of a region, given as it is for one share."""
    at = f"R_{region.name}"
    return at if parts == 1 else f"({at} + (ptrdiff_t)share_begin * {slice_bytes(region.bytes)})"


def slice_bytes(size: int) -> int:
    """Bytes from a share's slice to the next: whole cache lines, so that cores do not fight over one."""
    return -(-size // 64) * 64
