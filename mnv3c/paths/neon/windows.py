"""Convolutions over windows: a ring of padded input rows feeds one output row at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region
from mnv3c.codegen.render import render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor

# Kernels read and write whole vectors: this many bytes behind a region's last may be touched.
SLACK = 64


@dataclass(frozen=True)
class Geometry:
    """Sizes of a ring of rows, in rows, pixels and bytes.

    Attributes:
        batch: input rows that are brought in at a time.
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
    batch: int = 1

    @property
    def extent(self) -> int:
        """Rows from a window's first to its last."""
        return (self.kernel_height - 1) * self.dilation + 1

    @property
    def slots(self) -> int:
        return min(self.height, max(self.extent, self.stride) + self.batch - 1)

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
        above_only = end <= self.height and self.batch == 1 and self.height >= self.extent >= self.stride
        return self.slots - 1 if above_only else self.slots

    @property
    def bytes(self) -> int:
        rows = max(self.slots, self.blank_slot + 1) if self.blank else self.slots
        return rows * self.row_bytes + SLACK


def geometry_of(conv: q.QConv, x: Tensor, out_height: int, out_width: int, batch: int = 1) -> Geometry:
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
        batch,
    )


@dataclass(frozen=True, eq=False)
class Ring:
    """A ring as scratch memory, with the constant that pads it."""

    geometry: Geometry
    region: Region
    constants: tuple[Constant, ...]
    padding: str
    padding_block: int

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        g = self.geometry
        names = (*(("pad_rows",) if g.left or g.right or g.blank else ()), "window_rows")
        return tuple(Kernel(f"{n}_neon", render(f"kernels/neon/{n}.c.j2")) for n in names)

    def body(self, produce: str, consume: str) -> str:
        """The stage's C: ``produce`` fills rows ``next`` to ``stop``, ``consume`` reads ``window``."""
        return render(
            "kernels/neon/window.c.j2",
            geometry=self.geometry,
            ring=self.region.name,
            padding=self.padding,
            padding_block=self.padding_block,
            produce=produce,
            consume=consume,
        )

    def row(self, number: str) -> str:
        """Address of the first real pixel of an input row in the ring."""
        g = self.geometry
        return f"ring + {number} % {g.slots} * {g.row_bytes} + {g.left * g.channels}"


@dataclass(frozen=True)
class Padding:
    """Where zero points are found: C expression of the first 8, and bytes from one 8 to the next."""

    first: str
    block: int


def make_ring(label: str, geometry: Geometry, x: Tensor, padding: Padding | None = None) -> Ring:
    """Scratch for ``geometry``; padding is the zero points of ``x``, a constant unless given."""
    region = Region(f"{label}_rows", geometry.bytes)
    if not (geometry.blank or geometry.left or geometry.right):
        return Ring(geometry, region, (), "", 0)
    if padding is not None:
        return Ring(geometry, region, (), padding.first, padding.block)
    points = np.asarray(x.quant.zero_point if x.quant else (0,), np.int8)
    one = bool((points == points[0]).all())
    # One value for all channels: every block reads the same 8.
    data = np.full(8, points[0], np.int8) if one else np.broadcast_to(points, x.shape[2:]).copy()
    name = f"padding_{label}"
    return Ring(geometry, region, (Constant(name, data, "table"),), name, 0 if one else 8)


def copy_rows(ring: Ring, source: str) -> str:
    """Produce rows by copying them from a dense tensor at ``source``."""
    g = ring.geometry
    row = g.width * g.channels
    return (
        "for (int32_t row = next; row < stop; ++row) {\n"
        f"  memcpy({ring.row('row')}, {source} + row * {row}, {row});\n"
        "}"
    )


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
