"""Camera frames to the bytes of the network's image, exactly as the generated C computes them.

``docs/numerics.md`` ("Camera") has the definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.camera import FORMATS, Frame

# BT.601, units of 2^-15: gain of Y beyond 1, and of V for red, U and V for green, U for blue, the last
# and first of these less their whole part.
COEFFICIENTS = {
    "full": (0, 13173, 11277, 23401, 25297),
    "limited": (5387, 19531, 12837, 26639, 565),
}
# Whole parts of the gains for red and blue.
WHOLE = {"full": (1, 1), "limited": (1, 2)}
# Y of black.
BLACK = {"full": 0, "limited": 16}


@dataclass(frozen=True)
class Axis:
    """One axis of the upright image: pixels ``first`` to ``first + count - 1`` of it become pixels ``to``
    to ``to + size - 1`` of the network's image."""

    first: int
    count: int
    to: int
    size: int


def place(frame: Frame, height: int, width: int) -> tuple[Axis, Axis]:
    """Rows and columns: which part of the upright image is seen, and where in the network's image."""
    turned = frame.rotation in (90, 270)
    high, wide = (frame.width, frame.height) if turned else (frame.height, frame.width)
    rows, columns = Axis(0, high, 0, height), Axis(0, wide, 0, width)
    if frame.fit == "crop":
        w = _within((2 * high * width + height) // (2 * height), wide)
        h = _within((2 * wide * height + width) // (2 * width), high)
        rows, columns = Axis((high - h) // 2, h, 0, height), Axis((wide - w) // 2, w, 0, width)
    elif frame.fit == "letterbox":
        w = _within((2 * wide * height + high) // (2 * high), width)
        h = _within((2 * high * width + wide) // (2 * wide), height)
        rows, columns = Axis(0, high, (height - h) // 2, h), Axis(0, wide, (width - w) // 2, w)
    return rows, columns


def _within(value: int, most: int) -> int:
    return max(1, min(value, most))


def neighbours(axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of the result the two source pixels, and the second one's weight in units of 2^-15."""
    o = np.arange(axis.size, dtype=np.int64)
    step = (axis.count << 32) // axis.size
    position = np.clip(((2 * o + 1) * step >> 1) - (1 << 31), 0, (axis.count - 1) << 32)
    first = np.minimum(position >> 32, max(axis.count - 2, 0))
    weight = np.minimum((position - (first << 32) + (1 << 16)) >> 17, 32767)
    second = np.minimum(first + 1, axis.count - 1)
    return axis.first + first, axis.first + second, weight


def _rdmulh16(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    return (a * b + (1 << 14)) >> 15


def _components(frame: Frame) -> list[np.ndarray]:
    """The three components of every pixel of the upright image, int64."""
    result = []
    f = FORMATS[frame.format]
    for c in f.components:
        plane = frame.planes[c.plane][:, : f.plane_bytes(c.plane, frame.width)]
        values = plane[:, c.offset :: f.planes[c.plane]].astype(np.int64)
        if c.half:
            values = values.repeat(2, axis=0).repeat(2, axis=1)[: frame.height, : frame.width]
        result.append(np.rot90(values, -frame.rotation // 90))
    return result


def _resize(values: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Bilinear, in units of 2^-6."""
    above, below, wy = neighbours(rows)
    left, right, wx = neighbours(columns)

    def line(row: np.ndarray) -> np.ndarray:
        a, b = values[row][:, left] << 6, values[row][:, right] << 6
        return a + _rdmulh16(b - a, wx)

    upper, lower = line(above), line(below)
    return upper + _rdmulh16(lower - upper, wy[:, None])


def _to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, range_: str) -> list[np.ndarray]:
    """BT.601 in units of 2^-6."""
    gain, red, green_u, green_v, blue = COEFFICIENTS[range_]
    y = y - (BLACK[range_] << 6)
    u, v = u - (128 << 6), v - (128 << 6)
    y = y + _rdmulh16(y, gain)
    return [
        y + WHOLE[range_][0] * v + _rdmulh16(v, red),
        y - _rdmulh16(u, green_u) - _rdmulh16(v, green_v),
        y + WHOLE[range_][1] * u + _rdmulh16(u, blue),
    ]


def image(frame: Frame, height: int, width: int) -> np.ndarray:
    """What the network shall see of a frame: uint8 ``(height, width, 3)``, red, green, blue."""
    rows, columns = place(frame, height, width)
    values = [_resize(c, rows, columns) for c in _components(frame)]
    if FORMATS[frame.format].yuv:
        y, u, v = values
        values = _to_rgb(y, u, v, frame.range)
    bytes_ = np.clip((np.stack(values, axis=-1) + 32) >> 6, 0, 255).astype(np.uint8)
    result = np.empty((height, width, 3), np.uint8)
    result[:] = np.asarray(frame.pad, np.uint8)
    result[rows.to : rows.to + rows.size, columns.to : columns.to + columns.size] = bytes_
    return result
