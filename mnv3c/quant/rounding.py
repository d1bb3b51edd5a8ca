"""Which int8 weight each float weight becomes, and the bias that goes with them.

Nearest rounding minimises the error of the weights; what counts is the error of the layer's outputs.
With the second moments of the layer's inputs, rounding the weights one after the other and letting the
rest make up for each one's error minimises that (optimal brain surgeon, Hassibi and Stork 1993; for
quantisation: Frantar et al. 2022, "GPTQ"). The target is what the float layer gives on float inputs, so
the errors of the layers before, as far as they are linear in this one's input, are made up for as well.
"""

from __future__ import annotations

from dataclasses import dataclass

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
# How firmly the refit holds to the given weights, and the rounding to the nearest ones, as shares of the mean
# second moment: each layer gets what does best on images it was not fitted to.
_RIDGES = (0.03, 0.3, 3.0, 100.0)
_DAMPINGS = (0.003, 0.03, 0.3)
_FOLDS = 4
_RIDGE, _DAMPING = 3.0, 0.3  # where there is one image only
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
    rows = _rows(state, conv, target)
    x, y = rows.x, rows.y
    if state.options.rounding == "reconstruct":
        weights = _reconstruct(conv, folded, scale, finest, rows)
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
    conv: f.Conv2d, folded: np.ndarray, scale: np.ndarray | float, finest: float, rows: Rows
) -> Weights:
    shape = conv.groups, conv.weight.shape[0] // conv.groups, conv.weight[0].size
    given = folded.reshape(shape).transpose(0, 2, 1)
    parts = [Moments.of(rows.x[:, part], rows.y[:, part]) for part in rows.folds]
    whole = sum(parts[1:], parts[0]).about(None)
    # What is fitted on all folds but one, and what it is judged by.
    tried = []
    for k in range(len(parts)) if len(parts) > 1 else ():
        others = [p for i, p in enumerate(parts) if i != k]
        known = sum(others[1:], others[0])
        tried.append((known.about(None), parts[k].about(known)))
    # An output's error counts as far as it is seen among the output's own values.
    power = rows.y.var(axis=1, dtype=np.float64)
    cost = 1.0 / (power + 0.1 * power.mean() + 1e-30)

    def misfit(ridge: float) -> float:
        return sum(_misfit(_refit(*known, given, ridge), *seen, cost) for known, seen in tried)

    ridge = min(_RIDGES, key=misfit) if tried else _RIDGE
    wanted = _refit(*whole, given, ridge).transpose(0, 2, 1)
    unit = _unit(conv, wanted.reshape(folded.shape), scale, finest)
    scaled = wanted / unit.reshape(*shape[:2], 1)
    cost = cost * np.square(unit.reshape(shape[:2]))

    def noise(damping: float) -> float:
        total = 0.0
        for (moment, _), (seen, _) in tried:
            change = compensated_rounding(scaled, _damped(moment, damping)) - scaled
            total += float((cost * np.einsum("got,got->go", change @ seen, change)).sum())
        return total

    damping = min(_DAMPINGS, key=noise) if tried else _DAMPING
    rounded = compensated_rounding(scaled, _damped(whole[0], damping))
    return Weights(rounded.reshape(folded.shape).astype(np.int8), unit)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows, float64, so that the result is the same on every CPU.

    Attributes:
        count: of rows.
        x, y: sums ``[groups, taps]`` and ``[groups, out / groups]``.
        xx, xy: of products, ``[groups, taps, taps]`` and ``[groups, taps, out / groups]``.
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray) -> Moments:
        x, y = x.astype(np.float64), y.astype(np.float64)
        turned = x.transpose(0, 2, 1)
        return Moments(x.shape[1], x.sum(axis=1), y.sum(axis=1), turned @ x, turned @ y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
        )

    def about(self, other: Moments | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean products of deviations from the means of ``other``, or from its own: the bias takes those."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        xx = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]
        xy = self.xy / self.count - mean_x[:, :, None] * mean_y[:, None, :]
        if other is not None:
            off_x, off_y = mean_x - other.x / other.count, mean_y - other.y / other.count
            xx += off_x[:, :, None] * off_x[:, None, :]
            xy += off_x[:, :, None] * off_y[:, None, :]
        return xx, xy


def _damped(moment: np.ndarray, share: float) -> np.ndarray:
    """The moments and a share of their mean diagonal: few rows say little about many taps."""
    taps = moment.shape[1]
    return moment + (share * np.trace(moment, axis1=1, axis2=2)[:, None, None] / taps + 1e-9) * np.eye(taps)


def _refit(moment: np.ndarray, cross: np.ndarray, given: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression towards the given weights, ``[groups, taps, out / groups]``."""
    damped = _damped(moment, ridge)
    return given + np.linalg.solve(damped, cross - moment @ given)


def _misfit(weight: np.ndarray, moment: np.ndarray, cross: np.ndarray, cost: np.ndarray) -> float:
    """Squared error of weights on rows of such moments, less what is the same for all weights."""
    error = np.einsum("gto,gto->go", weight, moment @ weight - 2 * cross)
    return float((cost * error).sum())


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


@dataclass(frozen=True, eq=False)
class Rows:
    """Windows of a convolution's input and what the float network makes of them, at random places.

    Attributes:
        x: integers less their zero point, float32 ``[groups, S, taps]``.
        y: reals, float32 ``[groups, S, out / groups]``.
        folds: of whole images.
    """

    x: np.ndarray
    y: np.ndarray
    folds: tuple[slice, ...]


def _rows(state: State, conv: f.Conv2d, target: np.ndarray) -> Rows:
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
    x = x.reshape(conv.groups, count, -1)
    images = len(target)
    ends = np.searchsorted(place[0], np.linspace(0, images, min(_FOLDS, images) + 1))
    folds = [slice(*ends[k : k + 2]) for k in range(len(ends) - 1)]
    return Rows(x, np.array(y, np.float32), tuple(f for f in folds if f.stop > f.start))
