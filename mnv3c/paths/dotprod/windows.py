"""How a depthwise window falls on tiles of 4 pixels: which tiles, which products, which weight vectors.

A tile holds the 4 pixels of a block of an image, for 4 channels. An output block needs a few input
tiles; for each of its 4 positions and each tile one SDOT adds the taps that fall into the tile. The
weight vector of that SDOT has 4 bytes a channel, zero where no tap falls. Everything repeats from
block to block, so all of it is known when compiling.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

Block = tuple[int, int]
Taps = tuple[int, int, int, int]
NO_TAP = -1


@dataclass(frozen=True)
class Product:
    """One SDOT: ``accumulator[position] += weights[vector] . tile[row, column]``, tiles as from the first."""

    row: int
    column: int
    position: int
    vector: int


@dataclass(frozen=True)
class WindowPlan:
    """The products of one output block.

    Attributes:
        origin: (row, column) of the first tile, in input blocks relative to the output block's own
            ``step`` times its index; negative where the window reaches above or left.
        span: rows and columns of tiles that the products touch.
        step: input blocks from one output block to the next.
        vectors: for each weight vector the tap (``ky * kernel_w + kx``) of each of the tile's 4
            pixels, ``NO_TAP`` for none. Ordered by first use.
    """

    origin: tuple[int, int]
    span: tuple[int, int]
    step: tuple[int, int]
    vectors: tuple[Taps, ...]
    products: tuple[Product, ...]


def compatible(stride: tuple[int, int], block_in: Block, block_out: Block) -> bool:
    """Whether every output block sees the input's blocks in the same way."""
    return all(s * o % i == 0 for s, i, o in zip(stride, block_in, block_out, strict=True))


@functools.lru_cache(maxsize=256)
def plan_window(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad: tuple[int, int],
    block_in: Block,
    block_out: Block,
) -> WindowPlan:
    """Products of an output block; ``pad`` is (top, left). Requires ``compatible`` blocks."""
    bh, bw = block_in
    found: dict[tuple[int, int, int], list[int]] = {}
    for position in range(4):
        y, x = divmod(position, block_out[1])
        for ky in range(kernel[0]):
            row, in_y = divmod(y * stride[0] + ky * dilation[0] - pad[0], bh)
            for kx in range(kernel[1]):
                column, in_x = divmod(x * stride[1] + kx * dilation[1] - pad[1], bw)
                taps = found.setdefault((row, column, position), [NO_TAP] * 4)
                taps[in_y * bw + in_x] = ky * kernel[1] + kx
    rows = [k[0] for k in found]
    columns = [k[1] for k in found]
    origin = (min(rows), min(columns))
    vectors: dict[tuple[int, ...], int] = {}
    products = []
    for (row, column, position), taps in sorted(found.items()):
        vector = vectors.setdefault(tuple(taps), len(vectors))
        products.append(Product(row - origin[0], column - origin[1], position, vector))
    return WindowPlan(
        origin=origin,
        span=(max(rows) - origin[0] + 1, max(columns) - origin[1] + 1),
        step=(stride[0] * block_out[0] // bh, stride[1] * block_out[1] // bw),
        vectors=tuple(vectors),  # type: ignore[arg-type]
        products=tuple(products),
    )


@dataclass(frozen=True)
class Lookup:
    """How weight vectors are made from compact weights ``[kernel_h, kernel_w, 4]`` bytes of a quad.

    Attributes:
        registers: 16-byte registers that one table look-up reads.
        indices: distinct index vectors, 16 bytes each; 255 gives zero.
        vectors: (byte offset of the table, index into ``indices``) for each weight vector.
    """

    registers: int
    indices: tuple[tuple[int, ...], ...]
    vectors: tuple[tuple[int, int], ...]


def plan_lookup(plan: WindowPlan, kernel_w: int) -> Lookup | None:
    """Table look-ups for the weight vectors; ``None`` if one would need more than 4 registers."""
    indices: dict[tuple[int, ...], int] = {}
    vectors = []
    longest = 0
    for taps in plan.vectors:
        first = min(t // kernel_w for t in taps if t != NO_TAP)
        index = tuple(
            255 if tap == NO_TAP else (tap - first * kernel_w) * 4 + channel
            for channel in range(4)
            for tap in taps
        )
        longest = max(longest, *(i for i in index if i != 255))
        vectors.append((first * kernel_w * 4, indices.setdefault(index, len(indices))))
    registers = longest // 16 + 1
    return Lookup(registers, tuple(indices), tuple(vectors)) if registers <= 4 else None
