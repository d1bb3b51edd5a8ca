"""The quantisation of a float tensor, from what calibration saw of it and who reads it."""

from __future__ import annotations

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.quant.groups import sharing
from mnv3c.quant.ranges import LEVELS, Affine, Sample, affine, clip_range
from mnv3c.quant.state import State
from mnv3c.quant.weights import accumulator_unit, fold_input_scale, round_weights

# Sixteen bits have room for half more than calibration saw.
HEADROOM = 1.5
_SWISH_LEAST = -1.0 / 16  # times 1 / slope: x * (slope * x + 1/2) at x = -1 / (4 * slope)


def choose(
    state: State,
    name: str,
    activation: f.Activation | None = None,
    *,
    floor: float = 0.0,
    single: bool = False,
    common_zero: bool = False,
) -> Affine:
    """int8 quantisation of a float tensor from its calibration values.

    Args:
        activation: what produced the tensor; nothing outside of a clip's bounds is represented, or
            below the least value of h-swish.
        floor: the finest scale that makes sense.
        single: one scale and zero point, whoever reads the tensor.
        common_zero: one zero point, scales may be of a channel.
    """
    o = state.options
    seen = state.seen(name)
    profile = state.profiles.get(name)
    known = state.importance.get(name)
    if profile is not None:
        cost = None if known is None else known * profile**2
        low, high = clip_range(seen.divided(profile), per_channel=False, method=o.ranges, cost=cost)
        low, high = low * profile, high * profile
    else:
        shared = sharing(state.source, name)
        # A vector has one value an image for each channel: too few to tell a channel's range from.
        vector = state.source.tensor(name).shape[:2] == (1, 1)
        free = o.per_channel and not single and not vector and shared != "tensor"
        cost = _cost(state, name) if known is None and shared == "dense" else known
        low, high = clip_range(seen, per_channel=free, method=o.ranges, cost=cost)
        if vector:
            low, high = low * o.vector_margin, high * o.vector_margin
        if free and shared == "dense":
            low, high = balance(state, name, seen, low, high, common_zero)
    if activation is not None and activation.kind == "clip":
        low = np.maximum(low, min(activation.low, 0.0))
        high = np.minimum(high, max(activation.high, 0.0))
    if activation is not None and activation.kind == "hard_swish":
        low = np.maximum(low, _SWISH_LEAST / activation.slope)
    high = np.maximum(high, low + LEVELS * max(floor, 1e-30))
    return affine(low, high, common_zero=common_zero)


def choose16(state: State, name: str, *, floor: float = 0.0, reach: int = 32767) -> Affine:
    """int16 quantisation of a float tensor, with a zero point of 0, of all that was seen and half more.

    Args:
        floor: the finest scale that makes sense, of the channel with the widest range.
        reach: the integer that stands for the end of the range.
    """
    profile = state.profiles.get(name, np.ones(1))
    peak = float((np.abs(state.exact[name]).max(axis=(0, 1, 2)) / profile).max()) or 1.0
    return Affine(np.maximum(HEADROOM * peak / reach * profile, floor * profile), np.zeros(1))


def _cost(state: State, name: str) -> np.ndarray:
    """What a squared error of each channel adds to the results of the dense convolutions that read it."""
    total = np.zeros(state.source.tensor(name).shape[2])
    for user in state.source.consumers(name):
        if isinstance(user, f.Conv2d) and user.groups == 1:
            total += np.square(user.weight.astype(np.float64)).sum(axis=(0, 1, 2))
    return np.maximum(total, total.max() * 1e-6 + 1e-30)


def balance(
    state: State, name: str, seen: Sample, low: np.ndarray, high: np.ndarray, common_zero: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges between one for all channels and each channel's own, for the tensor of a dense convolution.

    Its own range gives a channel the least noise, but its scale then has to go into the weights, and
    what these lose may be more. The best of a few geometric means, by what both losses do to the outputs.
    """
    users = [
        u
        for u in state.source.consumers(name)
        if isinstance(u, f.Conv2d) and u.groups == 1 and u.weight.shape[1:3] == (1, 1)
    ]
    rows = seen.all_rows
    rows = rows[:: max(1, len(rows) // 2048)].astype(np.float64)
    best = (np.inf, low, high)
    width = high - low
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        grow = (width.max() / width) ** (1 - share)
        now = low * grow, high * grow
        error = _loss(state, name, users, rows, affine(*now, common_zero=common_zero))
        if error < best[0]:
            best = (error, *now)
    return best[1], best[2]


def _loss(state: State, name: str, users: list[f.Conv2d], rows: np.ndarray, a: Affine) -> float:
    """Noise of a tensor so quantised and of its readers' weights.

    At the outputs where importances are known; otherwise relative to each reader's result.
    """
    stored = np.clip(np.rint(rows / a.scale + a.zero_point), -128, 127) - a.zero_point
    known = name in state.importance
    error = 0.0
    if known:
        noise = np.square(stored * a.scale - rows).mean(axis=0)
        error = float((state.importance[name] * noise).sum())
    for conv in users:
        folded = fold_input_scale(conv, a.scale)
        unit = accumulator_unit(conv, folded)
        rounded = round_weights(folded, unit)[:, 0, 0].astype(np.float64) * unit[:, None]
        if known:
            lost = stored @ (rounded - folded[:, 0, 0]).T
            error += float((state.importance[conv.output] * lost.var(axis=0)).sum())
        else:
            want = rows @ conv.weight[:, 0, 0].astype(np.float64).T
            square = np.square(stored @ rounded.T - want).mean()
            error += float(square / max(np.square(want).mean(), 1e-30))
    return error


def clip_bounds(activation: f.Activation | None, a: Affine) -> tuple[int, int]:
    """Integer clamp for a clip; where scales differ by channel the range itself clips."""
    if activation is None or activation.kind != "clip" or len(a.scale) > 1:
        return -128, 127
    low, high = np.rint(np.asarray([activation.low, activation.high]) / a.scale[0] + a.zero_point[0])
    return int(np.clip(low, -128, 127)), int(np.clip(high, -128, 127))
