"""From what a tensor was seen to hold to the scale and zero point of its 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Quant

LEVELS = 255
_SHRINK = np.linspace(1.0, 0.25, 46)
# Of a histogram: two to 32 for each of 256 levels, as many as hold some values each.
_BINS = (512, 8192)
_IN_A_BIN = 16
_FOLDS = 4
# How far channels follow their own ranges rather than the tensor's, and what these are widened by.
_SHARES = (1.0, 0.7, 0.5, 0.3, 0.0)
_MARGINS = (1.0, 1.25, 1.5, 2.0, 3.0)
# Whatever calibration says, a channel keeps this share of the widest one's range.
_LEAST_SHARE = 1.0 / 256


@dataclass(frozen=True, eq=False)
class Affine:
    """Quantisation as arrays: ``real = scale * (q - zero_point)``.

    Attributes:
        scale, zero_point: float64, ``[1]`` or ``[C]``. The zero point is whole, except for raw camera
            bytes, whose real zero lies between two of them.
    """

    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def quant(self) -> Quant:
        """As an integer graph states it."""
        return Quant(tuple(float(s) for s in self.scale), tuple(int(z) for z in np.rint(self.zero_point)))

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """Integers to float32 reals."""
        return ((q - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Sample:
    """What calibration saw of a tensor.

    Attributes:
        low, high: extremes of each channel in each fold of the images, ``[F, C]``; zero is always within.
        rows: some pixels of each fold, float32 ``[S, C]``.
    """

    low: np.ndarray
    high: np.ndarray
    rows: tuple[np.ndarray, ...]

    @property
    def all_rows(self) -> np.ndarray:
        return np.concatenate(self.rows)

    def divided(self, by: np.ndarray) -> Sample:
        """The same of values divided by one positive number a channel."""
        return Sample(self.low / by, self.high / by, tuple((r / by).astype(np.float32) for r in self.rows))


def sample(name: str, values: np.ndarray, rng: np.random.Generator, elements: int = 1 << 20) -> Sample:
    """Extremes and a random sample of a batch ``(N, H, W, C)``, in folds of whole images.

    Raises:
        Mnv3cError: the values are not finite; names the tensor.
    """
    folds = [fold.reshape(-1, values.shape[-1]) for fold in np.array_split(values, min(_FOLDS, len(values)))]
    low = np.stack([fold.min(axis=0) for fold in folds])
    high = np.stack([fold.max(axis=0) for fold in folds])
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Mnv3cError("calibration gives values that are not finite (NaN or infinity)", name)
    most = max(512, elements // values.shape[-1]) // len(folds)
    rows = tuple(r if len(r) <= most else r[np.sort(rng.choice(len(r), most, replace=False))] for r in folds)
    return Sample(np.minimum(low, 0.0).astype(np.float64), np.maximum(high, 0.0).astype(np.float64), rows)


def clip_range(
    seen: Sample, *, per_channel: bool, method: str, cost: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The range to represent, ``(low, high)``, ``[C]`` or ``[1]``, float64, zero within.

    Args:
        method: ``minmax`` keeps the extremes; ``mse`` minimises rounding noise (a step squared over
            12, for what is not exactly zero) plus the square of what is cut off: for a tensor on what
            was seen, for channels on images that did not make the range. ``kl`` cuts a tensor's range so
            that the distribution of its values changes least; channels keep their extremes.
        cost: ``[C]``, what a squared error of each channel costs; by default the same for all, or relative
            to the channel's power where channels have ranges of their own.
    """
    low, high = seen.low.min(axis=0), seen.high.max(axis=0)
    whole = low.min(keepdims=True), high.max(keepdims=True)
    if method != "minmax" and whole[1][0] > whole[0][0]:
        rows = seen.all_rows
        whole = _minimise(rows, *whole, cost) if method == "mse" else _least_divergence(rows, *whole)
    if not per_channel:
        low, high = whole
    elif method == "mse":
        low, high = _by_channel(seen, low, high, whole, cost)
    widest = float((high - low).max())
    if widest == 0.0:
        return low, high + 1.0  # never anything but zero: any scale will do
    missing = np.maximum(widest * _LEAST_SHARE - (high - low), 0.0)
    # Behind an activation only the high end can grow; what is linear may grow either way.
    below = 0.5 if -low.min() > 0.3 * high.max() else 0.0
    return low - below * missing, high + (1 - below) * missing


def _by_channel(
    seen: Sample,
    low: np.ndarray,
    high: np.ndarray,
    whole: tuple[np.ndarray, np.ndarray],
    cost: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of channels, as far from the tensor's and as wide of what was seen as other images ask for.

    A channel that stands for something rare is hardly moved by a few dozen images. How much that
    matters differs by layer, so it is tried: ranges from all folds but one, errors on that one.
    """
    if cost is None:
        power = np.mean([_mean_square(r) for r in seen.rows], axis=0)
        cost = 1.0 / np.maximum(power + 0.1 * power.mean(), 1e-30)
    folds = range(len(seen.rows))
    others = [[k for k in folds if k != f] or [f] for f in folds]
    best, chosen = np.inf, (1.0, 1.0)
    for share in _SHARES:
        for margin in _MARGINS if share else (1.0,):
            error = 0.0
            for f in folds:
                seen_low, seen_high = seen.low[others[f]].min(axis=0), seen.high[others[f]].max(axis=0)
                a, b = (
                    _between(end, top, share, margin)
                    for end, top in zip((seen_low, seen_high), whole, strict=True)
                )
                error += float((cost * _error(seen.rows[f], a, b)).sum())
            if error < best:
                best, chosen = error, (share, margin)
    return _between(low, whole[0], *chosen), _between(high, whole[1], *chosen)


def _between(end: np.ndarray, whole: np.ndarray, share: float, margin: float) -> np.ndarray:
    """One end of the ranges: the channel's own, widened, or the geometric mean with the tensor's if more."""
    own, top = np.abs(end), float(np.abs(whole[0]))
    mean = np.maximum(own, top * _LEAST_SHARE) ** share * top ** (1 - share)
    sign = np.sign(whole[0])
    return sign * np.maximum(own * margin, mean) if top > 0 else end * margin


def _error(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Mean square of what is cut off and of rounding, by channel; a zero is represented exactly."""
    return _beyond(rows, low, high) + (rows != 0).mean(axis=0) * ((high - low) / LEVELS) ** 2 / 12


def _beyond(rows: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    above = np.maximum(rows - np.asarray(high, np.float32), 0)
    below = np.minimum(rows - np.asarray(low, np.float32), 0)
    return _mean_square(above) + _mean_square(below)


def _minimise(
    rows: np.ndarray, low: np.ndarray, high: np.ndarray, cost: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink both ends of a tensor's range along a grid, in turn, by tabulated errors."""
    cost = np.full(rows.shape[1], 1.0 / rows.shape[1]) if cost is None else cost
    density = float((cost * (rows != 0).mean(axis=0)).sum())
    cut_high, cut_low = (
        np.asarray([float((cost * _beyond(rows, *ends)).sum()) for ends in every])
        for every in ([(-np.inf, high[0] * t) for t in _SHRINK], [(low[0] * t, np.inf) for t in _SHRINK])
    )
    best_low = best_high = 0
    for _ in range(3):
        step = (high * _SHRINK - low * _SHRINK[best_low]) / LEVELS
        best_high = int((cut_high + density * step**2 / 12).argmin())
        step = (high * _SHRINK[best_high] - low * _SHRINK) / LEVELS
        best_low = int((cut_low + density * step**2 / 12).argmin())
    return low * _SHRINK[best_low], high * _SHRINK[best_high]


def _least_divergence(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrink a tensor's range to where 8 bits keep its distribution best (entropy calibration, Migacz 2017).

    Values of exactly zero are left out: they are represented exactly, and behind ReLU they are most.
    """
    values = rows[rows != 0]
    bins = int(np.clip(len(values) // _IN_A_BIN, *_BINS))
    counts, edges = np.histogram(values, bins, (float(low[0]), float(high[0])))
    centres = (edges[1:] + edges[:-1]) / 2
    losses = [_divergence(counts, centres, float(low[0]) * t, float(high[0]) * t) for t in _SHRINK]
    kept = _SHRINK[int(np.argmin(losses))]
    return low * kept, high * kept


def _divergence(counts: np.ndarray, centres: np.ndarray, low: float, high: float) -> float:
    """Kullback-Leibler divergence of what 8 bits make of a histogram cut to a range, from the histogram cut.

    What is beyond an end counts at that end in the one, and is not known to the other.
    """
    inside = (centres >= low) & (centres <= high)
    kept = counts[inside].astype(np.float64)
    if not kept.any():
        return np.inf
    cut = kept.copy()
    cut[0] += counts[centres < low].sum()
    cut[-1] += counts[centres > high].sum()
    level = np.floor((centres[inside] - low) / (high - low) * (LEVELS + 1)).astype(int).clip(0, LEVELS)
    # Each level's mass lies evenly on those of its bins that hold anything.
    mass = np.bincount(level, kept, LEVELS + 1)
    bins = np.bincount(level, cut > 0, LEVELS + 1)
    spread = np.where(cut > 0, mass[level] / np.maximum(bins[level], 1), 0.0)
    p, q = cut / cut.sum(), np.maximum(spread / max(spread.sum(), 1e-30), 1e-12)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.einsum("sc,sc->c", x, x, dtype=np.float64) / len(x)


def affine(low: np.ndarray, high: np.ndarray, *, common_zero: bool = False) -> Affine:
    """int8 scale and zero point that hold ``[low, high]``; real zero is one of the integers.

    Args:
        common_zero: scales may be of a channel, the zero point is of the tensor.
    """
    scale = steady((high - low) / LEVELS)
    if common_zero and len(scale) > 1:
        if low.min() == 0:
            return Affine(scale, np.full(1, -128.0))
        total = [_common_scale(low, high, z) for z in range(-128, 128)]
        zero = int(np.argmin([(s**2 / np.maximum(scale, 1e-30) ** 2).sum() for s in total])) - 128
        return Affine(steady(_common_scale(low, high, zero)), np.asarray([float(zero)]))
    zero_point = np.clip(np.rint(-128.0 - low / scale), -128, 127)
    return Affine(scale, zero_point)


def steady(scale: np.ndarray) -> np.ndarray:
    """Scales to the nearest float32 (in float64): without the last bits, which differ by CPU and library."""
    return np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)


def _common_scale(low: np.ndarray, high: np.ndarray, zero: int) -> np.ndarray:
    """The smallest scales that reach both ends from one zero point; infinite where none does."""
    above, below = 127 - zero, zero + 128
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(high > 0, high / above if above else np.inf, 0.0)
        down = np.where(low < 0, -low / below if below else np.inf, 0.0)
    return np.maximum(up, down)


def symmetric(peak: float) -> Affine:
    """int8 with a zero point of 0 that reaches ``+-peak``."""
    return Affine(steady(np.asarray([(peak if peak > 0 else 1.0) / 127.0])), np.zeros(1))
