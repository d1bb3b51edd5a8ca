"""The fixed-point arithmetic of TFLite's own kernels for element-wise operators, as 256-entry tables.

A table holds what LiteRT returns for each of the 256 inputs, bit for bit (tested against it). All
functions take and return int64 arrays; inputs and results are int8 values (uint8 less 128).

Sources: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(Jacob et al., 2018, section 2.2) for the multiplication; the TFLite quantisation specification
(ai.google.dev/edge/litert/models/quantization_spec) for the operators.
"""

from __future__ import annotations

import math

import numpy as np

from mnv3c.frontend.quantized.values import Affine

EVERY = np.arange(-128, 128, dtype=np.int64)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """``(m, e)`` with ``real = m / 2**31 * 2**e`` and m in ``[2**30, 2**31)``; ``(0, 0)`` for tiny ones."""
    if real == 0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    m = math.floor(fraction * 2**31 + 0.5)
    if m == 1 << 31:
        m, exponent = m >> 1, exponent + 1
    return (0, 0) if exponent < -31 else (m, exponent)


def doubling_high(a: np.ndarray, b: int, bits: int) -> np.ndarray:
    """High half of ``2 * a * b`` of two ``bits``-wide integers, rounded half away from zero."""
    product = np.asarray(a, np.int64) * b
    nudge = np.where(product >= 0, 1 << (bits - 2), 1 - (1 << (bits - 2)))
    total = product + nudge
    return np.sign(total) * (np.abs(total) >> (bits - 1))


def divide_by_power_of_two(x: np.ndarray, exponent: int) -> np.ndarray:
    """``x / 2**exponent``, rounded half away from zero."""
    if exponent == 0:
        return np.asarray(x)
    return np.sign(x) * ((np.abs(x) + (1 << (exponent - 1))) >> exponent)


def multiply(x: np.ndarray, multiplier: tuple[int, int]) -> np.ndarray:
    """``x`` times a quantised multiplier, rounded twice as TFLite's kernels do it."""
    m, exponent = multiplier
    shifted = np.asarray(x, np.int64) << max(exponent, 0)
    return divide_by_power_of_two(doubling_high(shifted, m, 32), max(-exponent, 0))


def _finish(values: np.ndarray, out: Affine, limits: tuple[int, int]) -> np.ndarray:
    return np.clip(values + out.zero_point, *limits).astype(np.int8)


def add_constant(
    x: Affine, y: Affine, constant: int, sign: int, out: Affine, limits: tuple[int, int]
) -> np.ndarray:
    """``x + sign * y`` for a constant ``y``: both brought to half the larger scale, with 20 more bits."""
    twice = 2.0 * max(x.scale, y.scale)
    a = multiply((EVERY - x.zero_point) << 20, quantize_multiplier(x.scale / twice))
    b = multiply(np.asarray((constant - y.zero_point) << 20), quantize_multiplier(y.scale / twice))
    return _finish(multiply(a + sign * b, quantize_multiplier(twice / ((1 << 20) * out.scale))), out, limits)


def multiply_constant(
    x: Affine, y: Affine, constant: int, out: Affine, limits: tuple[int, int]
) -> np.ndarray:
    """``x * y`` for a constant ``y``."""
    product = (EVERY - x.zero_point) * (constant - y.zero_point)
    return _finish(multiply(product, quantize_multiplier(x.scale * y.scale / out.scale)), out, limits)


def requantize(x: Affine, out: Affine) -> np.ndarray:
    """The same reals at another scale."""
    return _finish(multiply(EVERY - x.zero_point, quantize_multiplier(x.scale / out.scale)), out, (-128, 127))


def join(x: Affine, out: Affine) -> np.ndarray:
    """An operand of ``CONCATENATION`` at the result's scale: in float32, halves away from zero."""
    scale = np.float32(x.scale) * (np.float32(1.0) / np.float32(out.scale))
    real = EVERY.astype(np.float32) * scale - np.float32(x.zero_point) * scale
    return _finish(np.trunc(real + np.copysign(np.float32(0.5), real)).astype(np.int64), out, (-128, 127))


def _multiplier16(real: float) -> tuple[int, int]:
    m, exponent = quantize_multiplier(real)
    return min((m + (1 << 15)) >> 16, 32767), exponent


def hard_swish(x: Affine, out: Affine) -> np.ndarray:
    """``x * relu6(x + 3) / 6`` in 16 bits: ``x`` with 7 more bits, the gate in Q15."""
    fine = np.float32(1.0 / 128.0) * np.float32(x.scale)
    to_out = _multiplier16(float(fine / np.float32(out.scale)))
    to_gate = _multiplier16(float(fine / np.float32(3.0 / 32768.0)))
    hires = (EVERY - x.zero_point) << 7
    preshift = doubling_high(hires, to_out[0], 16)
    gate = hires
    if to_gate[1] > 0:
        gate = _saturate16(gate << (to_gate[1] - 1))
    gate = doubling_high(gate, to_gate[0], 16)
    if to_gate[1] > 0:
        gate = _saturate16(gate << 1)
    elif to_gate[1] < 0:
        gate = divide_by_power_of_two(gate, -to_gate[1])
    gate = (gate + (1 << 15)) >> 1
    product = gate * preshift
    product = np.sign(product) * (np.abs(product) >> 15)  # this one product is cut, not rounded
    shift = max(-to_out[1], 0)
    return _finish(divide_by_power_of_two(product, shift) << max(to_out[1], 0), out, (-128, 127))


def _saturate16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def logistic(x: Affine, out: Affine) -> np.ndarray:
    """``1 / (1 + exp(-x))``."""
    reals = 1.0 / (1.0 + np.exp(-np.clip(x.reals(), -80.0, 80.0)))
    return out.quantize(reals)


def multiply_tables(
    a: np.ndarray, a_affine: Affine, b: np.ndarray, b_affine: Affine, out: Affine, limits: tuple[int, int]
) -> np.ndarray:
    """Product of two functions of one tensor, each given as a table."""
    product = (a.astype(np.int64) - a_affine.zero_point) * (b.astype(np.int64) - b_affine.zero_point)
    scale = a_affine.scale * b_affine.scale / out.scale
    return _finish(multiply(product, quantize_multiplier(scale)), out, limits)
