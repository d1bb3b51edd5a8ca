"""From what a tensor was seen to hold to the scale and zero point of its 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Quant

LEVELS = 255
_SHRINK = np.linspace(1.0, 0.25, 46)


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
        low, high: extremes of each channel over everything, ``[C]``; zero is always within.
        rows: some of its pixels, ``[S, C]`` float32.
    """

    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray

    def divided(self, by: np.ndarray) -> Sample:
        """The same of values divided by one positive number a channel."""
        return Sample(self.low / by, self.high / by, (self.rows / by).astype(np.float32))


def sample(name: str, values: np.ndarray, rng: np.random.Generator, elements: int = 1 << 20) -> Sample:
    """Extremes and a random sample of a batch ``(N, H, W, C)``.

    Raises:
        Mnv3cError: the values are not finite; names the tensor.
    """
    pixels = values.reshape(-1, values.shape[-1])
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Mnv3cError("calibration gives values that are not finite (NaN or infinity)", name)
    count = min(len(pixels), max(512, elements // pixels.shape[1]))
    rows = pixels if count == len(pixels) else pixels[np.sort(rng.choice(len(pixels), count, replace=False))]
    return Sample(np.minimum(low, 0.0).astype(np.float64), np.maximum(high, 0.0).astype(np.float64), rows)


def clip_range(
    seen: Sample,
    *,
    per_channel: bool,
    method: str,
    least_share: float = 1 / 256,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The range to represent, ``(low, high)``, ``[C]`` or ``[1]``, float64, zero within.

    Args:
        method: ``minmax`` keeps the extremes; ``mse`` minimises rounding noise (a step squared over
            12, for what is not exactly zero) plus the square of what is cut off.
        least_share: of the widest channel's range that every channel gets: one that calibration hardly
            moves may move on another image.
        weight: ``[C]``, what an error of each channel costs; for one range over all channels.
    """
    low, high = seen.low, seen.high
    if not per_channel:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    if method == "mse":
        cost = np.ones(seen.rows.shape[1]) if weight is None else weight / max(float(weight.mean()), 1e-30)
        low, high = _minimise(seen.rows, low, high, cost, per_channel)
    widest = float((high - low).max())
    if widest == 0.0:
        return low, high + 1.0  # never anything but zero: any scale will do
    missing = np.maximum(widest * least_share - (high - low), 0.0)
    # Behind an activation only the high end can grow; what is linear may grow either way.
    below = 0.5 if -low.min() > 0.3 * high.max() else 0.0
    return low - below * missing, high + (1 - below) * missing


def _minimise(
    rows: np.ndarray, low: np.ndarray, high: np.ndarray, cost: np.ndarray, per_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink both ends in turn along a grid; each end's cut-off error is tabulated once."""
    # A zero is represented exactly, whatever the step.
    noisy = (rows != 0).mean(axis=0)

    def fold(per: np.ndarray) -> np.ndarray:
        return per if per_channel else (per * cost).mean(axis=-1, keepdims=True)

    density = fold(noisy)
    cut_high = np.stack([fold(_mean_square(np.maximum(rows - high * t, 0))) for t in _SHRINK])
    cut_low = np.stack([fold(_mean_square(np.minimum(rows - low * t, 0))) for t in _SHRINK])
    best_low = np.zeros(len(low), np.intp)
    best_high = np.zeros(len(high), np.intp)
    grid = _SHRINK[:, None]
    for _ in range(3):
        step = (high * grid - low * _SHRINK[best_low]) / LEVELS
        best_high = (cut_high + density * step**2 / 12).argmin(axis=0)
        step = (high * _SHRINK[best_high] - low * grid) / LEVELS
        best_low = (cut_low + density * step**2 / 12).argmin(axis=0)
    return low * _SHRINK[best_low], high * _SHRINK[best_high]


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.einsum("sc,sc->c", x, x, dtype=np.float64) / len(x)


def affine(low: np.ndarray, high: np.ndarray, *, common_zero: bool = False) -> Affine:
    """int8 scale and zero point that hold ``[low, high]``; real zero is one of the integers.

    Args:
        common_zero: scales may be of a channel, the zero point is of the tensor.
    """
    scale = (high - low) / LEVELS
    if common_zero and len(scale) > 1:
        total = [_common_scale(low, high, z) for z in range(-128, 128)]
        zero = int(np.argmin([(s**2 / np.maximum(scale, 1e-30) ** 2).sum() for s in total])) - 128
        return Affine(_common_scale(low, high, zero), np.asarray([float(zero)]))
    zero_point = np.clip(np.rint(-128.0 - low / scale), -128, 127)
    return Affine(scale, zero_point)


def _common_scale(low: np.ndarray, high: np.ndarray, zero: int) -> np.ndarray:
    """The smallest scales that reach both ends from one zero point; infinite where none does."""
    above, below = 127 - zero, zero + 128
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(high > 0, high / above if above else np.inf, 0.0)
        down = np.where(low < 0, -low / below if below else np.inf, 0.0)
    return np.maximum(up, down)


def symmetric(peak: float) -> Affine:
    """int8 with a zero point of 0 that reaches ``+-peak``."""
    return Affine(np.asarray([(peak if peak > 0 else 1.0) / 127.0]), np.zeros(1))
