"""Constants in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant
from mnv3c.paths.neon.tile import CHANNELS, HALF_BYTES, STEP_BYTES, Depth

BLOCK = 8  # channels that share an epilogue


@dataclass(frozen=True, eq=False)
class Strided:
    """8-bit values a channel that lie among a kernel's constants, 8 in each block.

    Attributes:
        values: int8 ``[channels]``, channels a multiple of 8.
        first: C expression of the first one's address.
        block: bytes from one block to the next.
    """

    values: np.ndarray
    constant: Constant
    first: str
    block: int


def stored_offsets(constant: Constant, offset: np.ndarray) -> Strided | None:
    """The offsets of a packed ``constant`` whose blocks end with them."""
    if offset.dtype != np.int8 or offset.size % BLOCK:
        return None
    block = int(constant.data.shape[1])
    return Strided(offset, constant, f"{constant.name} + {block - BLOCK}", block)


def block_starts(channels: int) -> list[int]:
    """First channel of each block of 8; the last one overlaps its neighbour where 8 does not divide."""
    starts = list(range(0, channels - BLOCK + 1, BLOCK))
    if channels % BLOCK:
        starts.append(channels - BLOCK)
    return starts


def pack_blocks(weight: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
    """Weights and parameters of a 1x1 convolution, 8 output channels at a time.

    Args:
        weight: int8 ``[out, in]``, ``out >= 8``.
        parameters: arrays ``[out]`` of any integer dtype.

    Returns:
        int8 ``[blocks, bytes]``: the weights of two tiles of 4 channels, then 8 values of each
        parameter. A tile is ``[4][8]`` weights where a half slice comes first, then
        ``[slices][4][16]`` (zero beyond ``in``).
    """
    out, depth = weight.shape
    cut = Depth.of(depth)
    half = HALF_BYTES * cut.half
    padded = np.zeros((out, cut.bytes), np.int8)
    padded[:, :depth] = weight
    rows = []
    for start in block_starts(out):
        parts = []
        for first in (start, start + CHANNELS):
            tile = padded[first : first + CHANNELS]
            slices = tile[:, half:].reshape(CHANNELS, -1, STEP_BYTES).transpose(1, 0, 2)
            parts += [tile[:, :half].reshape(-1), slices.reshape(-1)]
        parts += [np.ascontiguousarray(p[start : start + BLOCK]).view(np.int8) for p in parameters]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def pack_lanes(weight: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
    """Constants of a channel-wise kernel: for each block of 8 channels its taps, then its parameters.

    Args:
        weight: int8 or int16 ``[channels, taps]``, ``channels >= 8``.
        parameters: arrays ``[channels]``.

    Returns:
        int8 ``[blocks, bytes]``.
    """
    rows = []
    for start in block_starts(weight.shape[0]):
        stop = start + BLOCK
        parts = [np.ascontiguousarray(weight[start:stop].T).reshape(-1).view(np.int8)]
        parts += [np.ascontiguousarray(p[start:stop]).view(np.int8) for p in parameters]
        rows.append(np.concatenate(parts))
    return np.stack(rows)
