"""Fixed-point multipliers of integer nodes, and channels whose results are known beforehand."""

from __future__ import annotations

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import Affine
from mnv3c.ir import int_ops as q
from mnv3c.reference.arithmetic import quantize_multiplier


def requantization(
    scale: np.ndarray, affine: Affine, low: float, high: float, *, round_twice: bool, place: str
) -> q.Requant:
    """From sums times ``scale`` to int8.

    Args:
        scale: ``[channels]`` or ``[1]``: a unit of the sum in units of the result.
        affine: of the result. low, high: clamp on its reals.
        round_twice: as TFLite's built-in kernels do (``Requant.right``).

    Raises:
        Mnv3cError: a ratio that is out of range.
    """
    if not np.isfinite(scale).all() or float(scale.max()) >= 2.0**20:
        raise Mnv3cError("the ratio of its scales is out of range", place)
    limits = affine.clamp(low, high)
    offset = np.array([affine.zero_point], np.int16)
    if not round_twice:
        multiplier, shift = quantize_multiplier(scale)
        return q.Requant(multiplier, shift, offset, *limits)
    fraction, exponent = np.frexp(scale)
    multiplier = np.rint(np.ldexp(fraction, 31)).astype(np.int64)
    carry = multiplier == 1 << 31
    multiplier, exponent = np.where(carry, multiplier >> 1, multiplier), exponent + carry
    shift = max(int(exponent.max()), 0)
    right = shift - exponent
    # What is shifted further right than this is nothing in any case.
    nothing = (multiplier == 0) | (right > 30)
    multiplier, right = np.where(nothing, 0, multiplier), np.where(nothing, 0, right)
    return q.Requant(multiplier.astype(np.int32), shift, offset, *limits, right=right.astype(np.int8))


def constant_channels(
    bias: np.ndarray, spread: np.ndarray, ratio: np.ndarray, affine: Affine, limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int8 result of each channel at the top of its range, and whether it is the same at the bottom."""
    low, high = (
        np.clip(np.rint((bias + end) * ratio) + affine.zero_point, *limits).astype(np.int64)
        for end in (-spread, spread)
    )
    return high, low == high


def wrapping_channels(
    weight: np.ndarray, bias: np.ndarray, ratio: np.ndarray, affine: Affine, limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int8 result of channels whose sums pass the end of 32 bits, and which these are.

    Quantisers give nearly dead channels biases of 2**31 - 1. Runtimes then wrap round, or not, as the
    input has it; the result is taken that an input in the middle of its range gives. Only where all
    weights together move it by less than half a step; others are left for the caller to refuse.
    """
    w = weight.reshape(len(weight), -1).astype(np.int64)
    low, high = (np.where(w > 0, w * a, w * b).sum(axis=1) for a, b in ((-128, 127), (127, -128)))
    half = 1 << 31
    wraps = (bias + high >= half) | (bias + low < -half)
    middle = (bias + (low + high) // 2 + half) % (2 * half) - half
    result = np.clip(np.rint(middle * ratio) + affine.zero_point, *limits).astype(np.int64)
    return result, wraps & ((high - low) * ratio < 0.5)
