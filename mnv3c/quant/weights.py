"""int8 weights, int32 biases and requantisation of one convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.quant.ranges import Affine, steady
from mnv3c.reference.arithmetic import quantize_multiplier

WEIGHT_MAX = 127
_BIAS_MAX = 2.0**26
# Requantisation multipliers are these times one power of two for a layer, so that code can store 16 bits.
_MULTIPLIER_MAX = 32767
# What is rounded to 16 bits after the weights may move no result by more than this share of an 8-bit unit.
NEGLIGIBLE = 1.0 / 16
# Fewer than six bits would make a channel's weights noticeably coarser than they need be.
_MULTIPLIER_MIN = 32


@dataclass(frozen=True, eq=False)
class Weights:
    """Rounded weights of a convolution.

    Attributes:
        values: int8 ``[out, kernel_h, kernel_w, in / groups]``.
        unit: real value of one unit of each accumulator, float64 ``[out]``.
    """

    values: np.ndarray
    unit: np.ndarray


def fold_input_scale(node: f.Conv2d, scale: np.ndarray) -> np.ndarray:
    """Weights times the scale of the input channel that each one reads, float64."""
    out, _, _, per_group = node.weight.shape
    weight = node.weight.astype(np.float64)
    if len(scale) == 1:
        return weight * scale[0]
    by_group = scale.reshape(node.groups, per_group)
    return weight * np.repeat(by_group, out // node.groups, axis=0)[:, None, None, :]


def check_finite(node: f.Conv2d) -> None:
    """Raises Mnv3cError naming the convolution if a weight or bias is NaN or infinite."""
    if not (np.isfinite(node.weight).all() and np.isfinite(node.bias).all()):
        raise Mnv3cError("weights or bias are not finite (NaN or infinity)", node.name)


def accumulator_unit(node: f.Conv2d, folded: np.ndarray, smallest: np.ndarray | float = 0.0) -> np.ndarray:
    """The accumulators' unit for which the largest weight of every output channel is 127.

    It is raised where the bias would not fit 26 bits, and to ``smallest``: channels without weights,
    or with negligible ones, need no fine unit.
    """
    peak = np.abs(folded).max(axis=(1, 2, 3)) / WEIGHT_MAX
    return steady(
        np.maximum.reduce(
            [peak, np.abs(node.bias.astype(np.float64)) / _BIAS_MAX, np.broadcast_to(smallest, peak.shape)]
        )
    )


def snap_unit(unit: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Accumulator units, a little coarser, for which every multiplier is a whole number in 16 bits.

    The multipliers ``unit / scale`` of a layer become whole numbers in [32, 32767] times one power of two.
    Rounded before the weights are, this loses next to nothing: the weights of a channel whose multiplier
    is a thousandth of the layer's greatest are rounded to a grid up to 3 % coarser. A smaller multiplier
    still is raised: such a channel's accumulator is hundreds of times finer than its output.

    Args:
        unit: float64 ``[out]``. scale: of the output.
    """
    ratio = unit / scale
    exponent = int(np.frexp(ratio.max())[1]) - 15
    if np.ceil(np.ldexp(ratio.max(), -exponent)) > _MULTIPLIER_MAX:
        exponent += 1
    exponent = max(exponent, -31)  # a whole number over 2**31 it has to be as well
    whole = np.clip(np.ceil(np.ldexp(ratio, -exponent)), _MULTIPLIER_MIN, _MULTIPLIER_MAX)
    return np.ldexp(whole, exponent) * scale


def round_weights(folded: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Nearest int8 weights, in [-127, 127]."""
    return np.clip(np.rint(folded / unit[:, None, None, None]), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)


def zero_point_sum(node: f.Conv2d, weights: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """What the input's zero points add to each accumulator, float64 ``[out]``."""
    out, _, _, per_group = weights.shape
    sums = weights.astype(np.float64).sum(axis=(1, 2))
    if len(zero_point) == 1:
        return sums.sum(axis=1) * zero_point[0]
    by_group = np.repeat(zero_point.reshape(node.groups, per_group), out // node.groups, axis=0)
    return (sums * by_group).sum(axis=1)


def shorten(values: np.ndarray, error: np.ndarray | float) -> np.ndarray:
    """Whole numbers of 16 bits times one power of two, if that is near enough: code stores half the bytes.

    Args:
        values: float64 ``[out]``: biases or multipliers.
        error: the greatest change that each may suffer.

    Returns:
        int32 ``[out]``; the nearest whole numbers where one would change by more.
    """
    exponent = 0
    while np.abs(np.rint(np.ldexp(values, -exponent))).max() > _MULTIPLIER_MAX:
        exponent += 1
    short = np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent)
    near = bool(np.all(np.abs(short - np.rint(values)) <= error))
    return (short if near else np.rint(values)).astype(np.int32)


def make_conv(
    node: f.Conv2d,
    output: str,
    weights: Weights,
    bias: np.ndarray,
    x: Affine,
    scale: np.ndarray | float,
    zero_point: np.ndarray | float = 0.0,
    low: int = -128,
    high: int = 127,
    coarse: np.ndarray | float = 1.0,
    reach: int = 128,
) -> q.QConv:
    """The integer convolution.

    Args:
        bias: real, float64 ``[out]``.
        x: quantisation of the input.
        scale, zero_point: of the output, an int8 or int16 tensor; the zero point goes into the bias.
        coarse: units of the output in one unit of the 8-bit tensor that it becomes.
        reach: the largest magnitude of the input's integers.

    Raises:
        Mnv3cError: the bias or the accumulator leaves 32 bits.
    """
    scale = np.broadcast_to(np.asarray(scale, np.float64), weights.unit.shape)
    ratio = weights.unit / scale
    multiplier, shift = quantize_multiplier(ratio)
    total = bias / weights.unit - zero_point_sum(node, weights.values, x.zero_point) + zero_point / ratio
    worst = np.abs(weights.values.astype(np.int64)).sum(axis=(1, 2, 3)) * reach + np.abs(total) + 1
    if not np.all(np.ldexp(worst, shift) < 2.0**31):
        raise Mnv3cError("weights, bias and activation ranges differ too much for 32-bit sums", node.name)
    return q.QConv(
        name=node.name,
        inputs=node.inputs,
        outputs=(output,),
        weight=weights.values,
        bias=shorten(total, NEGLIGIBLE * np.asarray(coarse) / ratio),
        requant=q.Requant(multiplier, shift, low=low, high=high),
        stride=node.stride,
        pad=node.pad,
        dilation=node.dilation,
        groups=node.groups,
    )
