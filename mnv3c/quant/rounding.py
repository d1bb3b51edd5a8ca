"""Which int8 weight each float weight becomes, and the bias that goes with them."""

from __future__ import annotations

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.quant import batched
from mnv3c.quant.state import State
from mnv3c.quant.weights import Weights, accumulator_unit, fold_input_scale, round_weights


def fit_weights(state: State, conv: f.Conv2d, smallest: np.ndarray | float) -> tuple[Weights, np.ndarray]:
    """Round the weights of a convolution and correct its bias.

    Args:
        smallest: lower bound of the accumulators' units, one value or one an output channel.

    Returns:
        The weights, and the real bias, float64 ``[out]``.
    """
    x = state.affine[conv.inputs[0]]
    folded = fold_input_scale(conv, x.scale)
    unit = accumulator_unit(conv, folded, smallest)
    weights = Weights(round_weights(folded, unit), unit)
    bias = conv.bias.astype(np.float64)
    target = state.exact.get(conv.output)
    if state.options.bias_correction and target is not None:
        bias = bias + mean_error(state, conv, weights, target)
    return weights, bias


def mean_error(state: State, conv: f.Conv2d, weights: Weights, target: np.ndarray) -> np.ndarray:
    """Mean over the calibration batch of what the rounded convolution misses, float64 ``[out]``."""
    name = conv.inputs[0]
    x = state.affine[name]
    centred = (state.stored[name] - x.zero_point).astype(np.float32)
    rounded = f.Conv2d(
        conv.name,
        conv.inputs,
        conv.outputs,
        weights.values,
        conv.bias,
        conv.stride,
        conv.pad,
        conv.dilation,
        conv.groups,
    )
    got = batched.convolve(rounded, centred).mean(axis=(0, 1, 2), dtype=np.float64) * weights.unit
    return target.mean(axis=(0, 1, 2), dtype=np.float64) - conv.bias.astype(np.float64) - got
