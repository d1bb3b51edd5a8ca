"""Which int8 weight each float weight becomes, and the bias that goes with them.

Nearest rounding minimises the error of the weights; what counts is the error of the layer's outputs.
With the second moments of the layer's inputs, rounding the weights one after the other and letting the
rest make up for each one's error minimises that (optimal brain surgeon, Hassibi and Stork 1993; for
quantisation: Frantar et al. 2022, "GPTQ"). The target is what the float layer gives on float inputs, so
the errors of the layers before, as far as they are linear in this one's input, are made up for as well.
"""

from __future__ import annotations

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.quant import batched
from mnv3c.quant.state import State
from mnv3c.quant.weights import (
    WEIGHT_MAX,
    Weights,
    accumulator_unit,
    fold_input_scale,
    round_weights,
    snap_unit,
)

_ROWS = 1 << 13
_PATCH_ELEMENTS = 1 << 23
_BLOCK = 32  # taps between two products of matrices; the result does not depend on it but for rounding


def fit_weights(
    state: State, conv: f.Conv2d, scale: np.ndarray | float, finest: float
) -> tuple[Weights, np.ndarray]:
    """Round the weights of a convolution and correct its bias.

    Args:
        scale: of the output, one value or one an output channel.
        finest: least share of it that the accumulators' units are worth.

    Returns:
        The weights, and the real bias, float64 ``[out]``.
    """
    folded = fold_input_scale(conv, state.affine[conv.inputs[0]].scale)
    bias = conv.bias.astype(np.float64)
    target = state.exact.get(conv.output)
    as_given = state.options.rounding == "nearest" and not state.options.bias_correction
    if target is None or as_given:  # without a target it was made up by the quantiser: exact as it is
        return _nearest(conv, folded, scale, finest), bias
    x, y = _rows(state, conv, target)
    if state.options.rounding == "reconstruct":
        weights = _reconstruct(conv, folded, scale, finest, x, y, state.options.ridge)
    else:
        weights = _nearest(conv, folded, scale, finest)
    if state.options.bias_correction:
        groups = conv.groups
        rounded = weights.values.reshape(groups, -1, x.shape[2]).astype(np.float64)
        means = np.einsum("got,gt->go", rounded, x.mean(axis=1, dtype=np.float64)).ravel()
        bias = y.mean(axis=1, dtype=np.float64).ravel() - means * weights.unit
    return weights, bias


def _nearest(conv: f.Conv2d, folded: np.ndarray, scale: np.ndarray | float, finest: float) -> Weights:
    unit = _unit(conv, folded, scale, finest)
    return Weights(round_weights(folded, unit), unit)


def _unit(conv: f.Conv2d, folded: np.ndarray, scale: np.ndarray | float, finest: float) -> np.ndarray:
    return snap_unit(accumulator_unit(conv, folded, np.asarray(scale) * finest), scale)


def _reconstruct(
    conv: f.Conv2d,
    folded: np.ndarray,
    scale: np.ndarray | float,
    finest: float,
    x: np.ndarray,
    y: np.ndarray,
    strength: float,
) -> Weights:
    groups, out = conv.groups, conv.weight.shape[0]
    taps = conv.weight[0].size
    # Without means: the bias takes those. In float64, so that the result is the same on every CPU.
    x, y = x.astype(np.float64), y.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    moment = x.transpose(0, 2, 1) @ x / x.shape[1]
    cross = x.transpose(0, 2, 1) @ y / x.shape[1]
    # Few rows say little about many taps: the fewer, the closer to the given weights.
    share = strength * (1 + 50 * taps / x.shape[1])
    ridge = share * np.trace(moment, axis1=1, axis2=2)[:, None, None] / taps + 1e-9
    moment = moment + ridge * np.eye(taps)
    weight = folded.reshape(groups, out // groups, taps).transpose(0, 2, 1)
    wanted = np.linalg.solve(moment, cross + ridge * weight).transpose(0, 2, 1)
    wanted = wanted.reshape(folded.shape)
    unit = _unit(conv, wanted, scale, finest)
    scaled = (wanted / unit[:, None, None, None]).reshape(groups, out // groups, taps)
    rounded = compensated_rounding(scaled, moment)
    return Weights(rounded.reshape(folded.shape).astype(np.int8), unit)


def compensated_rounding(weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Round each group's weights to whole numbers in [-127, 127] so that the outputs change least.

    Args:
        weight: float64 ``[groups, out, taps]``, in units of the result.
        moment: positive definite ``[groups, taps, taps]``: second moments of the inputs.
    """
    groups, _, taps = weight.shape
    # Taps that carry most go first, while there are others left to make up for them.
    order = np.argsort(-np.diagonal(moment, axis1=1, axis2=2), axis=1, kind="stable")
    rows = np.arange(groups)[:, None]
    work = np.take_along_axis(weight, order[:, None, :], axis=2)
    sorted_moment = moment[rows[:, :, None], order[:, :, None], order[:, None, :]]
    # Row j of the upper factor of the inverse says how the later taps make up for tap j.
    inverse = np.linalg.inv(sorted_moment)
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    result = np.empty_like(work)
    for start in range(0, taps, _BLOCK):
        stop = min(start + _BLOCK, taps)
        errors = np.empty((groups, work.shape[1], stop - start))
        for j in range(start, stop):
            result[:, :, j] = np.clip(np.rint(work[:, :, j]), -WEIGHT_MAX, WEIGHT_MAX)
            error = (work[:, :, j] - result[:, :, j]) / upper[:, None, j, j]
            errors[:, :, j - start] = error
            work[:, :, j + 1 : stop] -= error[:, :, None] * upper[:, None, j, j + 1 : stop]
        work[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(result, back[:, None, :], axis=2)


def _rows(state: State, conv: f.Conv2d, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows and results at random places: ``[groups, S, taps]`` integers less their zero point, and
    ``[groups, S, out / groups]`` reals, float32."""
    name = conv.inputs[0]
    zero = state.affine[name].zero_point
    out, kh, kw, per_group = conv.weight.shape
    count = min(target[..., 0].size, _ROWS, max(1024, _PATCH_ELEMENTS // (kh * kw * conv.groups * per_group)))
    chosen = np.sort(state.rng.choice(target[..., 0].size, count, replace=False))
    place = np.unravel_index(chosen, target.shape[:3])
    view = batched.patches(conv, state.stored[name], np.rint(zero).astype(np.int8))
    x = (view[place] - zero).astype(np.float32)  # [S, kh, kw, C]
    x = x.reshape(count, kh * kw, conv.groups, per_group).transpose(2, 0, 1, 3)
    y = target[place].reshape(count, conv.groups, out // conv.groups).transpose(1, 0, 2)
    return x.reshape(conv.groups, count, -1), np.array(y, np.float32)
