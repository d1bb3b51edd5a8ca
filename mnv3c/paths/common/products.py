"""What can be proven about sums of products at compile time, from the weights alone."""

from __future__ import annotations

import numpy as np

from mnv3c.ir.int_ops import QConv

INT16_MAX = 32767


def product_bounds(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value of ``weight * x`` for any int8 ``x``, elementwise, as int64."""
    w = weight.astype(np.int64)
    return np.minimum(w * 127, w * -128), np.maximum(w * 127, w * -128)


def accumulator_bounds(conv: QConv) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest accumulator of each output channel, bias included; int64 ``[out]``."""
    low, high = product_bounds(conv.weight.reshape(conv.weight.shape[0], -1))
    return conv.bias + low.sum(axis=1), conv.bias + high.sum(axis=1)


def sixteen_bit_groups(weight: np.ndarray) -> list[int]:
    """Cut a row of taps into the fewest runs whose sums of products always fit 16 bits.

    Args:
        weight: int8 ``[channels, taps]``; a cut holds for every channel.

    Returns:
        The first tap of each run.
    """
    low, high = product_bounds(weight)
    starts = [0]
    for tap in range(1, weight.shape[1]):
        run = slice(starts[-1], tap + 1)
        fits = low[:, run].sum(axis=1).min() >= -INT16_MAX - 1 and high[:, run].sum(axis=1).max() <= INT16_MAX
        if not fits:
            starts.append(tap)
    return starts
