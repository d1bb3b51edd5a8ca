"""Values of a model that comes quantised, before they are tensors of a graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Quant, Shape
from mnv3c.reference.windows import window_output_size

IDENTITY = np.arange(-128, 128, dtype=np.int8)
# Activations beyond this are no network for a small core; a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28
# Beyond these a scale is damage: products and ratios of two still fit float32.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**60


def ends(start: str | int, operators: Iterable[tuple[bool, Sequence[object], Sequence[object]]]) -> bool:
    """Whether a value of a model leads to outputs alone, by operators that compute nothing.

    Args:
        operators: in the model's order, of each: whether it computes nothing, what it reads and writes.
    """
    found: set[object] = {start}
    for nothing, inputs, outputs in operators:
        if found.intersection(inputs):
            if not nothing:
                return False
            found.update(outputs)
    return True


@dataclass(frozen=True)
class Affine:
    """``real = scale * (q - zero_point)`` of an int8 tensor."""

    scale: float
    zero_point: int

    def reals(self) -> np.ndarray:
        """float64 ``[256]``: what each int8 value from -128 stands for."""
        return self.scale * (np.arange(-128, 128, dtype=np.float64) - self.zero_point)

    def quantize(self, reals: np.ndarray) -> np.ndarray:
        """Nearest int8 values, halves to even."""
        return np.clip(np.rint(reals / self.scale) + self.zero_point, -128, 127).astype(np.int8)

    def clamp(self, low: float, high: float) -> tuple[int, int]:
        """int8 bounds that clamp the reals to ``[low, high]``."""
        bounds = [-128, 127]
        for i, real in enumerate((low, high)):
            if np.isfinite(real):
                bounds[i] = int(np.clip(np.rint(real / self.scale) + self.zero_point, -128, 127))
        return bounds[0], max(bounds)


@dataclass(frozen=True, eq=False)
class Value:
    """An int8 value of the model: ``table[stored tensor + 128]``.

    Attributes:
        name: the model's name for it.
        tensor: the graph's tensor that is in memory.
        affine: of the value, after the table.
        table: int8 ``[256]``; ``IDENTITY`` where the value is the tensor itself.
    """

    name: str
    tensor: str
    shape: Shape
    affine: Affine
    table: np.ndarray = dataclasses.field(default_factory=lambda: IDENTITY)

    @property
    def is_stored(self) -> bool:
        return bool((self.table == IDENTITY).all())


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or a pool, as in ``float_ops.Conv2d``."""

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def output(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        return window_output_size(size, kernel, self.stride, self.pad, self.dilation)


def identifier(text: str) -> str:
    """``text`` as a C identifier."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "model"
    return f"m_{name}" if name[0].isdigit() else name


def check_shape(shape: Shape, place: str) -> None:
    """Raise ``Mnv3cError`` unless ``shape`` is positive and of a sane size."""
    if min(shape) < 1:
        raise Mnv3cError(f"shape {shape} is not positive (dynamic shapes are not supported)", place)
    if shape[0] * shape[1] * shape[2] > MAX_ELEMENTS:
        raise Mnv3cError(f"shape {shape} is too large", place)


def quant_of(affine: Affine) -> Quant:
    """Scale and zero point as a tensor of the graph has them."""
    return Quant((float(affine.scale),), (int(affine.zero_point),))
