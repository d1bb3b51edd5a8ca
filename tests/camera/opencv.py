"""What a camera's frame should become, in floating point, by OpenCV and the formulas of BT.601.

``python -m tests.camera.opencv`` prints which share of pixels the integer arithmetic has within a level.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnv3c.camera import FORMATS, Frame, random_frame
from mnv3c.reference import camera as reference

_TURNS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


def components(frame: Frame) -> np.ndarray:
    """Red, green, blue or Y, U, V of every pixel, float32 ``(height, width, 3)``."""
    w, h = frame.width, frame.height
    if frame.format in ("rgb", "bgr", "rgba", "bgra"):
        n = len(frame.format)
        pixels = frame.planes[0][:, : w * n].reshape(h, w, n)
        return np.stack([pixels[..., frame.format.index(c)] for c in "rgb"], -1).astype(np.float32)
    across, down = (w + 1) // 2, (h + 1) // 2
    if frame.format == "i420":
        u, v = (p[:, :across] for p in frame.planes[1:])
    else:
        pairs = frame.planes[1][:, : 2 * across].reshape(down, across, 2)
        u, v = (pairs[..., i] for i in ((0, 1) if frame.format == "nv12" else (1, 0)))
    whole = [np.kron(c, np.ones((2, 2), np.uint8))[:h, :w] for c in (u, v)]
    return np.stack([frame.planes[0][:, :w], *whole], -1).astype(np.float32)


def to_rgb(yuv: np.ndarray, range_: str) -> np.ndarray:
    """BT.601 (ITU-R BT.601-7, JFIF), float64, not clamped."""
    y, u, v = np.moveaxis(yuv.astype(np.float64), -1, 0)
    u, v = u - 128, v - 128
    if range_ == "limited":
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    return np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)


def image(frame: Frame, height: int, width: int) -> np.ndarray:
    """The network's image, float64 ``(height, width, 3)``, rounded and clamped to bytes."""
    x = components(frame)
    if frame.rotation:
        x = cv2.rotate(x, _TURNS[frame.rotation])
    high, wide = x.shape[:2]
    to = [0, 0, height, width]
    if frame.fit == "crop":
        w = min(wide, max(1, int(np.floor(high * width / height + 0.5))))
        h = min(high, max(1, int(np.floor(wide * height / width + 0.5))))
        top, left = (high - h) // 2, (wide - w) // 2
        x = x[top : top + h, left : left + w]
    elif frame.fit == "letterbox":
        w = min(width, max(1, int(np.floor(wide * height / high + 0.5))))
        h = min(height, max(1, int(np.floor(high * width / wide + 0.5))))
        to = [(height - h) // 2, (width - w) // 2, h, w]
    x = cv2.resize(np.ascontiguousarray(x), (to[3], to[2]), interpolation=cv2.INTER_LINEAR)
    if FORMATS[frame.format].yuv:
        x = to_rgb(x, frame.range)
    result = np.empty((height, width, 3))
    result[:] = frame.pad
    result[to[0] : to[0] + to[2], to[1] : to[1] + to[3]] = np.clip(np.rint(x), 0, 255)
    return result


def differences(frame: Frame, height: int, width: int) -> np.ndarray:
    """For each pixel, by how many levels the colour that differs most does."""
    got = reference.image(frame, height, width).astype(np.float64)
    return np.abs(got - image(frame, height, width)).max(axis=-1)


def _print() -> None:
    rng = np.random.default_rng(0)
    for name in FORMATS:
        levels = np.concatenate(
            [
                differences(
                    random_frame(
                        rng, name, int(rng.integers(1, 2000)), int(rng.integers(1, 2000)), smooth=i % 2 == 0
                    ),
                    224,
                    224,
                ).ravel()
                for i in range(60)
            ]
        )
        print(
            f"{name:5} equal {(levels == 0).mean():.3%}, within a level {(levels <= 1).mean():.4%},"
            f" most {levels.max():.0f}"
        )


if __name__ == "__main__":
    _print()
