"""Constants in the order in which the kernels read them."""

from __future__ import annotations

import numpy as np

from mnv3c.paths.neon.tile import CHANNELS, STEP_BYTES, Depth


def tile_starts(channels: int) -> list[int]:
    """First output channel of each tile; the last tile overlaps its neighbour where 4 does not divide."""
    starts = list(range(0, channels - CHANNELS + 1, CHANNELS))
    if channels % CHANNELS:
        starts.append(channels - CHANNELS)
    return starts


def pack_tiles(weight: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
    """Weights and parameters of all tiles as one stream of bytes.

    Args:
        weight: int8 ``[out, in]``, ``out >= 4``.
        parameters: arrays ``[out]`` of any integer dtype.

    Returns:
        int8 ``[tiles, bytes]``; a tile is ``[in / 16][4][16]`` weights (zero beyond ``in``), then 4
        values of each parameter.
    """
    out, depth = weight.shape
    packed_depth = Depth.of(depth).slices * STEP_BYTES
    padded = np.zeros((out, packed_depth), np.int8)
    padded[:, :depth] = weight
    rows = []
    for start in tile_starts(out):
        block = padded[start : start + CHANNELS].reshape(CHANNELS, -1, STEP_BYTES).transpose(1, 0, 2)
        parts = [block.reshape(-1)]
        parts += [np.ascontiguousarray(p[start : start + CHANNELS]).view(np.int8) for p in parameters]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def pack_lanes(weight: np.ndarray, parameters: list[np.ndarray], lanes: int = 8) -> np.ndarray:
    """Constants of a channel-wise kernel: for each group of 8 channels its taps, then its parameters.

    Args:
        weight: int8 ``[channels, taps]``, ``channels >= lanes``.
        parameters: arrays ``[channels]``.

    Returns:
        int8 ``[groups, bytes]``; the last group overlaps its neighbour where 8 does not divide.
    """
    rows = []
    for start in lane_starts(weight.shape[0], lanes):
        stop = start + lanes
        parts = [np.ascontiguousarray(weight[start:stop].T).reshape(-1)]
        parts += [np.ascontiguousarray(p[start:stop]).view(np.int8) for p in parameters]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def lane_starts(channels: int, lanes: int = 8) -> list[int]:
    """First channel of each group of lanes; the last group overlaps its neighbour where needed."""
    starts = list(range(0, channels - lanes + 1, lanes))
    if channels % lanes:
        starts.append(channels - lanes)
    return starts
