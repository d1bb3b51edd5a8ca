"""The scalar integer operations of ``docs/numerics.md``, on NumPy arrays of any shape.

All take and return int64 so that no step can wrap around unseen; the results are in the range that
the name states. Each is the exact meaning of one Arm instruction, named in its docstring.
"""

from __future__ import annotations

import numpy as np

I64 = np.int64


def sat8(x: np.ndarray) -> np.ndarray:
    """Saturate to int8 (SQXTN from 16 bits)."""
    return np.clip(x, -128, 127)


def sat16(x: np.ndarray) -> np.ndarray:
    """Saturate to int16 (SQXTN from 32 bits)."""
    return np.clip(x, -32768, 32767)


def rdmulh32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rounding doubling multiply, high half, of int32 by a non-negative int32 (SQRDMULH .4S).

    ``floor((a * b + 2**30) / 2**31)``. ``b >= 0``, so the instruction's one saturating case
    (both operands -2**31) cannot arise.
    """
    return (a.astype(I64) * np.asarray(b, I64) + (1 << 30)) >> 31


def rdmulh16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rounding doubling multiply, high half, of int16 by int16 (SQRDMULH .8H).

    ``sat16(floor((a * b + 2**14) / 2**15))``; saturates for -32768 * -32768 alone.
    """
    return np.minimum((np.asarray(a, I64) * np.asarray(b, I64) + (1 << 14)) >> 15, 32767)


def rounding_shift_right(x: np.ndarray, n: int) -> np.ndarray:
    """``floor((x + 2**(n-1)) / 2**n)`` without overflow, ``n >= 1`` (SQRSHRN before its saturation)."""
    return (np.asarray(x, I64) + (1 << (n - 1))) >> n


def quantize_multiplier(scale: np.ndarray) -> tuple[np.ndarray, int]:
    """Split positive real scales into int32 multipliers and one common left shift.

    Returns ``(multiplier, shift)`` with ``scale ~ multiplier / 2**31 * 2**shift``, shift the smallest
    non-negative integer that keeps every multiplier below ``2**31``.
    """
    scale = np.asarray(scale, np.float64)
    shift = 0
    while np.any(np.rint(np.ldexp(scale, 31 - shift)) >= 2**31):
        shift += 1
    return np.rint(np.ldexp(scale, 31 - shift)).astype(np.int32), shift
