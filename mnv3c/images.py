"""Images to network inputs: loading, resizing and the chain of normalisations.

Three numbers stand for one pixel's channel, each made from the one before by ``scale * x + shift``:

- the **byte**, 0 to 255, RGB;
- what the **model file** takes: the user's ``Normalization``, from a mean and a standard deviation;
- the **network input**, which the float graph's first node reads: ``graph.meta["input_affine"]``,
  a multiplication and an addition that the model itself began with and the front end took off.

A library with ``int8`` input takes the network input divided by its scale; with ``uint8`` the byte;
with ``float32`` what the model file takes.
"""

from __future__ import annotations

import csv
import struct
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph, Shape

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
# What readers of damaged files are seen to raise.
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True)
class Normalization:
    """``y = scale * x + shift``, one value or one a channel.

    The default takes bytes to [-1, 1].
    """

    scale: tuple[float, ...] = (1.0 / 127.5,)
    shift: tuple[float, ...] = (-1.0,)

    @staticmethod
    def from_mean_std(mean: Sequence[float], std: Sequence[float], one: float | None = None) -> Normalization:
        """``(x / one - mean) / std`` for a byte ``x``.

        Args:
            one: 255 if mean and deviation are of images in 0 to 1, 1 if of bytes. Without it they are
                taken to be of bytes if any of them is above 1.

        Raises:
            Mnv3cError: a deviation that is not positive, lengths that differ, a value not finite.
        """
        if len({len(mean), len(std)} - {1}) > 1 or not mean or not std:
            raise Mnv3cError(f"{len(mean)} means and {len(std)} deviations", "normalization")
        if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise Mnv3cError("means must be finite and deviations positive", "normalization")
        if one is None:
            one = 1.0 if max(*map(abs, mean), *std) > 1.0 else 255.0
        count = max(len(mean), len(std))
        means, stds = (tuple(v) * (count if len(v) == 1 else 1) for v in (mean, std))
        return Normalization(
            tuple(1.0 / (one * s) for s in stds), tuple(-m / s for m, s in zip(means, stds, strict=True))
        )

    def then(self, after: Normalization) -> Normalization:
        """This map, followed by another."""
        count = max(len(v) for v in (self.scale, self.shift, after.scale, after.shift))
        (a, b), (c, d) = self.arrays(count), after.arrays(count)
        return Normalization(tuple(map(float, a * c)), tuple(map(float, b * c + d)))

    def arrays(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift as float64 ``[channels]``.

        Raises:
            Mnv3cError: it has another number of channels.
        """
        for values in (self.scale, self.shift):
            if len(values) not in (1, channels):
                raise Mnv3cError(f"{len(values)} values for {channels} channels", "normalization")
        scale, shift = (
            np.broadcast_to(np.asarray(v, np.float64), channels) for v in (self.scale, self.shift)
        )
        return scale, shift

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Map an array whose last axis is channels; float32."""
        scale, shift = self.arrays(x.shape[-1])
        return (x * scale + shift).astype(np.float32)

    def undo(self, y: np.ndarray) -> np.ndarray:
        """The inverse of ``apply``, float64."""
        scale, shift = self.arrays(y.shape[-1])
        return (y - shift) / scale


IDENTITY = Normalization((1.0,), (0.0,))


def input_affine(graph: Graph) -> Normalization:
    """What the model itself does to its input first; the identity if nothing."""
    affine = graph.meta.get("input_affine")
    if not isinstance(affine, dict):
        return IDENTITY
    scale, shift = (
        tuple(float(x) for x in np.ravel(np.asarray(affine.get(key, default), np.float64)))
        for key, default in (("scale", 1.0), ("shift", 0.0))
    )
    return Normalization(scale, shift)


def graph_normalization(graph: Graph, normalization: Normalization | None) -> Normalization:
    """Bytes to the network input: the user's map, then the model's own.

    Without a user's map: a model with ``input_affine`` is taken to be given images in 0 to 1, another
    one in -1 to 1.
    """
    own = input_affine(graph)
    if normalization is None:
        plain = set(own.scale) == {1.0} and set(own.shift) == {0.0}
        normalization = Normalization() if plain else Normalization((1.0 / 255.0,), (0.0,))
    return normalization.then(own)


def list_images(folder: Path) -> list[Path]:
    """Images of a folder in the order of their names.

    Raises:
        Mnv3cError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise Mnv3cError("no such folder", str(folder))
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise Mnv3cError(f"no images ({', '.join(SUFFIXES)})", str(folder))
    return found


def load_image(path: Path, shape: Shape, *, crop: bool) -> np.ndarray:
    """An image as uint8 ``(H, W, C)`` of the given shape; C is 3 (RGB) or 1 (grey).

    Args:
        crop: the largest centred part of the shape's proportions, resized; else the whole image is.

    Raises:
        Mnv3cError: cannot be read as an image, or the shape has another number of channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise Mnv3cError(f"the network takes {channels} channels; images have 1 or 3", str(path))
    image = _open(path, "RGB" if channels == 3 else "L")
    if crop:
        image = image.crop(_centre(image.size, width / height))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(shape)


def load_whole(path: Path) -> np.ndarray:
    """An image as it is, uint8 ``(H, W, 3)``, RGB.

    Raises:
        Mnv3cError: cannot be read as an image.
    """
    return np.asarray(_open(path, "RGB"), np.uint8)


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return opened.convert(mode)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise Mnv3cError(f"cannot be read as an image: {error}", str(path)) from None


def _centre(size: tuple[int, int], ratio: float) -> tuple[int, int, int, int]:
    """The largest centred box of a width-to-height ratio, in whole pixels."""
    width, height = size
    wide = max(1, min(width, round(height * ratio)))
    tall = max(1, min(height, round(width / ratio)))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def network_inputs(
    paths: Iterable[Path], graph: Graph, normalization: Normalization | None = None, *, crop: bool
) -> Iterator[np.ndarray]:
    """Images as inputs of a float graph, float32 ``(H, W, C)``, one after the other."""
    shape = graph.tensor(graph.inputs[0]).shape
    mapping = graph_normalization(graph, normalization)
    for path in paths:
        yield mapping.apply(load_image(path, shape, crop=crop))


def calibration_inputs(
    source: Path, graph: Graph, normalization: Normalization | None = None
) -> list[np.ndarray]:
    """Calibration inputs from a folder of images, or from an ``.npy`` of what the model file takes.

    The ``.npy`` holds ``(N, H, W, C)`` or ``(N, C, H, W)``; where both would fit, the first is meant.

    Raises:
        Mnv3cError: unreadable, or of another shape.
    """
    if source.is_dir():
        return list(network_inputs(list_images(source), graph, normalization, crop=True))
    if not source.is_file():
        raise Mnv3cError("no such file or folder", str(source))
    try:
        values = np.load(source, allow_pickle=False)
    except (*_DAMAGED, zipfile.BadZipFile, tokenize.TokenError) as error:
        raise Mnv3cError(f"cannot be read as .npy: {error}", str(source)) from None
    height, width, channels = shape = graph.tensor(graph.inputs[0]).shape
    if not isinstance(values, np.ndarray) or values.ndim != 4 or values.dtype.kind not in "fiu":
        raise Mnv3cError("holds no numeric array of four dimensions", str(source))
    if values.shape[1:] != shape and values.shape[1:] == (channels, height, width):
        values = values.transpose(0, 2, 3, 1)
    if values.shape[1:] != shape:
        raise Mnv3cError(f"inputs of shape {values.shape[1:]}, the network takes {shape}", str(source))
    return list(input_affine(graph).apply(values))


def random_inputs(shape: Shape, count: int, seed: int, mapping: Normalization) -> np.ndarray:
    """Network inputs with image-like statistics, float32 ``(N, H, W, C)``: for want of real ones.

    Noise whose amplitude falls with the inverse of the frequency, the channels mostly alike, spread
    over the bytes' range and then normalised. Statistics of natural images (Field 1987), no more.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = 1.0 / np.maximum(frequency, 1.0 / max(height, width))
    noise = rng.standard_normal((count, channels, height, width))
    noise = 0.8 * noise[:, :1] + 0.6 * noise
    smooth = np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=(height, width))
    spread = smooth.std(axis=(1, 2, 3), keepdims=True)
    pixels = 120.0 + 60.0 * smooth / np.where(spread > 0, spread, 1.0)
    return mapping.apply(np.clip(np.rint(pixels), 0, 255).transpose(0, 2, 3, 1))


def read_labels(path: Path) -> list[tuple[str, int]]:
    """Pairs of file and class from a CSV with the columns ``file`` and ``label_0based``.

    Raises:
        Mnv3cError: missing file or column, or a label that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Mnv3cError(f"cannot be read: {error}", str(path)) from None
    if not rows or not {"file", "label_0based"} <= set(rows[0]):
        raise Mnv3cError("needs rows with the columns file and label_0based", str(path))
    labels = []
    for line, row in enumerate(rows, 2):
        try:
            labels.append((row["file"] or "", int(row["label_0based"])))
        except (TypeError, ValueError):
            raise Mnv3cError(f"line {line}: label_0based is not a whole number", str(path)) from None
    return labels
