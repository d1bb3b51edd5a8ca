"""32-bit constants that fit 16 bits and a shift."""

from __future__ import annotations

import numpy as np


def short_shift(values: np.ndarray) -> int | None:
    """The left shift by which numbers of 16 bits give ``values``, int32; ``None`` if none does."""
    common = int(np.bitwise_or.reduce(values.astype(np.int64).ravel()))
    shift = (common & -common).bit_length() - 1 if common else 0
    stored = values >> shift
    return shift if stored.min() >= -(1 << 15) and stored.max() < 1 << 15 else None
