"""Sliding windows over ``(H, W, C)`` arrays, shared by both executors."""

from __future__ import annotations

import numpy as np


def window_output_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of a windowed operator's output; ``pad`` is (top, left, bottom, right)."""
    padded = (size[0] + pad[0] + pad[2], size[1] + pad[1] + pad[3])
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = (
        (p - e) // s + 1 if p >= e else 0 for p, e, s in zip(padded, extent, stride, strict=True)
    )
    return height, width


def windows(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int, int, int],
    dilation: tuple[int, int],
    pad_value: np.ndarray,
) -> np.ndarray:
    """A view ``[out_h, out_w, kernel_h, kernel_w, C]`` of ``x`` padded with ``pad_value`` (``[C]``)."""
    top, left, bottom, right = pad
    height, width, channels = x.shape
    padded = np.empty((height + top + bottom, width + left + right, channels), x.dtype)
    padded[...] = pad_value
    padded[top : top + height, left : left + width] = x
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(0, 1))
    view = view[:: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 3, 4, 2)
