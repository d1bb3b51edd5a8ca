"""Where a value of a tensor lies: dense, or in tiles of 4 pixels by 4 channels.

A tile is 16 bytes. A tiled tensor is ``[block row][block column][channel / 4]`` tiles, each
*channel-minor* (``[4 pixels][4 channels]``). The 4 pixels are a block of the image, 2x2 or 1x4.
Windows for depthwise convolutions, which live inside one stage, are *pixel-minor*.
"""

from __future__ import annotations

from collections.abc import Mapping

from mnv3c.ir.graph import Shape
from mnv3c.paths.dotprod.windows import Block
from mnv3c.schedules import table_of

SQUARE: Block = (2, 2)
ROW: Block = (1, 4)
TILE = 16
BLOCKS: Mapping[str, Block] = {"2x2": SQUARE, "1x4": ROW}


def grid(shape: Shape, block: Block) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def quads(channels: int) -> int:
    return -(-channels // 4)


def tiled_bytes(shape: Shape, block: Block) -> int:
    rows, columns = grid(shape, block)
    return rows * columns * quads(shape[2]) * TILE


def sums_in_tiles(shape: Shape, block: Block) -> bool:
    """Whether a depthwise kernel can take channel sums: no foreign pixel in a tile, short rows."""
    exact = block == ROW or (shape[0] % 2 == 0 and shape[1] % 2 == 0)
    return exact and grid(shape, block)[1] <= 120  # a row's sums are int16: 2 * 120 * 128 < 2**15


def block_name(block: Block) -> str:
    """A key of ``BLOCKS``."""
    return f"{block[0]}x{block[1]}"


def best_block(shape: Shape) -> Block:
    """The block shape of a tensor by the rule of ``schedules/network.py``."""
    return BLOCKS[table_of("network").default_block(*shape[:2])]
