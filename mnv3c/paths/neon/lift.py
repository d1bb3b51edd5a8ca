"""Weights of 9 bits as 8 bits and a constant a channel.

Asymmetric uint8 weights less their zero point need [-255, 255], but those of one channel hardly ever span
more than 8 bits. With ``w = w8 + c`` a sum of products is ``sum(w8 * x) + c * sum(x)``, and the second
sum is one number a pixel.
"""

from __future__ import annotations

import numpy as np

from mnv3c.paths.neon.tile import HALF_BYTES, STEP_BYTES, Depth


def split_weights(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """``weight`` (int16 ``[out, in]``) as int8 ``[out, in]`` and int16 ``[out]``.

    ``None`` where a channel spans more than 8 bits, or has -128 in both halves of a pair of products
    that are summed in 16 bits.
    """
    low, high = weight.min(axis=1).astype(np.int32), weight.max(axis=1).astype(np.int32)
    # The constant nearest to 0; a span of 255 leaves one.
    constant = np.clip(0, high - 127, np.maximum(low + 127, high - 127))
    rest = weight - constant[:, np.newaxis]
    if rest.min() < -128 or _pairs(rest == -128).any():
        return None
    return rest.astype(np.int8), constant.astype(np.int16)


def _pairs(extreme: np.ndarray) -> np.ndarray:
    """Where both weights of a pair, 8 apart in a slice of 16, are the extreme."""
    cut = Depth.of(extreme.shape[1])
    padded = np.zeros((extreme.shape[0], cut.bytes), bool)
    padded[:, : extreme.shape[1]] = extreme
    slices = padded[:, HALF_BYTES * cut.half :].reshape(-1, 2, STEP_BYTES // 2)
    return slices[:, 0] & slices[:, 1]
