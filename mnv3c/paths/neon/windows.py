"""Convolutions over windows: a ring of padded input rows feeds one output row at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor

# Kernels read and write whole vectors: this many bytes behind a region's last may be touched.
SLACK = 64


@dataclass(frozen=True)
class Geometry:
    """Sizes of a ring of rows, in rows, pixels and bytes.

    Attributes:
        blank: whether a row of padding is needed above or below.
    """

    height: int
    width: int
    channels: int
    top: int
    left: int
    bottom: int
    right: int
    kernel_height: int
    stride: int
    dilation: int
    out_height: int
    out_width: int

    @property
    def extent(self) -> int:
        """Rows from a window's first to its last."""
        return (self.kernel_height - 1) * self.dilation + 1

    @property
    def slots(self) -> int:
        return min(self.height, max(self.extent, self.stride))

    @property
    def padded_width(self) -> int:
        return self.left + self.width + self.right

    @property
    def row_bytes(self) -> int:
        return self.padded_width * self.channels

    @property
    def blank(self) -> bool:
        return self.top > 0 or self.bottom > 0

    @property
    def blank_slot(self) -> int:
        """Where the row of padding lies: behind the ring, or in its last slot.

        Padding above is needed only before that slot is: while a window begins above the input, its
        rows fill one slot less than there are. That leaves the case of padding below.
        """
        end = (self.out_height - 1) * self.stride - self.top + self.extent
        above_only = end <= self.height and self.height >= self.extent >= self.stride
        return self.slots - 1 if above_only else self.slots

    @property
    def rows(self) -> int:
        """Of the ring and the padding behind it."""
        return max(self.slots, self.blank_slot + 1) if self.blank else self.slots

    @property
    def bytes(self) -> int:
        return self.rows * self.row_bytes + SLACK


def geometry_of(conv: q.QConv, x: Tensor, out_height: int, out_width: int) -> Geometry:
    """The ring for ``conv`` over ``x`` (its shape alone matters)."""
    top, left, bottom, right = conv.pad
    return Geometry(
        *x.shape,
        top,
        left,
        bottom,
        right,
        conv.kernel[0],
        conv.stride[0],
        conv.dilation[0],
        out_height,
        out_width,
    )


@dataclass(frozen=True)
class Padding:
    """Where zero points are found: C expression of the first 8, and bytes from one 8 to the next."""

    first: str
    block: int


@dataclass(frozen=True, eq=False)
class Ring:
    """Rows of a windowed operator's input, padded, in scratch memory.

    Attributes:
        level: tells the rings of a stage apart: in C, ``ring<level>`` is the memory, ``next<level>`` the
            next input row to bring in, ``window<level>`` the rows of a window.
        channels: of the ring, a C expression (a slice of the tensor's, say).
        constants: what padding reads, if it is not among a kernel's own constants.
    """

    geometry: Geometry
    level: int
    channels: str
    padding: Padding | None
    constants: tuple[Constant, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        names = (*(("pad_rows",) if self.padding is not None else ()), "window_rows")
        return tuple(Kernel(f"{n}_neon", render(f"kernels/neon/{n}.c.j2")) for n in names)

    @property
    def _row_bytes(self) -> str:
        g = self.geometry
        return str(g.row_bytes) if self.channels.isdigit() else f"{g.padded_width} * {self.channels}"

    def prepare(self, first_block: str = "") -> str:
        """C that fills the padding, from a block of 8 channels on."""
        if self.padding is None:
            return ""
        g, p = self.geometry, self.padding
        at = f"{p.first} + {first_block} * {p.block}" if first_block and p.block else p.first
        rows = g.blank_slot if g.blank else g.slots
        return (
            f"pad_rows_neon(ring{self.level}, {at}, {p.block}, {rows}, {int(g.blank)}, "
            f"{g.left}, {g.width}, {g.right}, {self.channels});"
        )

    def first_row(self, y: str) -> str:
        """C expression: the first input row that output row ``y`` reads."""
        if y == "0":
            return "0"
        g = self.geometry
        top = _times(y, g.stride)
        return f"{top} > {g.top} ? {top} - {g.top} : 0" if g.top else top

    def row(self, number: str) -> str:
        """Address of the first real pixel of an input row in the ring."""
        g = self.geometry
        left = str(g.left * g.channels) if self.channels.isdigit() else f"{g.left} * {self.channels}"
        return f"ring{self.level} + {number} % {g.slots} * {_factor(self._row_bytes)} + {left}"

    def code(self, y: str, produce: str, consume: str) -> str:
        """C for output row ``y``: ``produce`` makes row ``next<level>``, ``consume`` uses the window."""
        return render(
            "kernels/neon/window.c.j2",
            geometry=self.geometry,
            level=self.level,
            row_bytes=self._row_bytes,
            top=f"{_times(y, self.geometry.stride)} - {self.geometry.top}",
            produce=produce,
            consume=consume,
        )


def _times(value: str, factor: int) -> str:
    return value if factor == 1 else f"{_factor(value)} * {factor}"


def _factor(value: str) -> str:
    return value if value.isidentifier() or value.isdigit() else f"({value})"


def make_ring(
    label: str,
    geometry: Geometry,
    x: Tensor,
    level: int,
    padding: Padding | None = None,
    channels: str | None = None,
) -> Ring:
    """The ring of ``x``; its padding is the zero points of ``x``, a constant unless given."""
    count = str(geometry.channels) if channels is None else channels
    if not (geometry.blank or geometry.left or geometry.right):
        return Ring(geometry, level, count, None, ())
    if padding is not None:
        return Ring(geometry, level, count, padding, ())
    points = np.asarray(x.quant.zero_point if x.quant else (0,), np.int8)
    one = bool((points == points[0]).all())
    # One value for all channels: every block reads the same 8.
    data = np.full(8, points[0], np.int8) if one else np.broadcast_to(points, x.shape[2:]).copy()
    name = f"padding_{label}"
    return Ring(geometry, level, count, Padding(name, 0 if one else 8), (Constant(name, data, "table"),))


@dataclass(frozen=True, eq=False)
class Gather:
    """Windows of a row of output pixels, one after the other."""

    kernel: Kernel
    step: int
    bytes: int


def lower_gather(conv: q.QConv, geometry: Geometry) -> Gather:
    """The kernel that copies windows; each then is a row of ``kernel_h * kernel_w * channels`` values."""
    kh, kw = conv.kernel
    dilation, channels = conv.dilation[1], geometry.channels
    if dilation == 1 or kw == 1:
        pieces = [(r, 0, r * kw * channels, kw * channels) for r in range(kh)]
    else:
        pieces = [
            (r, k * dilation * channels, (r * kw + k) * channels, channels)
            for r in range(kh)
            for k in range(kw)
        ]
    size = kh * kw * channels
    step = -(-size // 16) * 16
    advance = conv.stride[1] * channels
    name = f"gather_{kh}x{kw}_neon_c{channels}s{conv.stride[1]}d{dilation}"
    source = render(
        "kernels/neon/gather.c.j2", name=name, pieces=pieces, used_rows=range(kh), advance=advance, step=step
    )
    return Gather(Kernel(name, source), step, geometry.out_width * step + SLACK)
