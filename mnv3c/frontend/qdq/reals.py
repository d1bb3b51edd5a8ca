"""What a float value of a QDQ model is, while it has not been quantised again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnv3c.frontend.qdq.attributes import clip_bounds
from mnv3c.frontend.qdq.reader import InputInfo, Model, NodeInfo
from mnv3c.frontend.quantized.values import Affine, Value
from mnv3c.ir.graph import Shape

INF = float("inf")


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant; ``integers`` and what they stand for where it came out of a ``DequantizeLinear``."""

    reals: np.ndarray
    integers: np.ndarray | None = None
    scale: np.ndarray | None = None
    axis: int = 0


@dataclass(frozen=True, eq=False)
class Function:
    """A float32 function of a stored tensor.

    Attributes:
        reals: float32 ``[256]``, by the int8 value of ``value.tensor``.
        exact: it is the dequantised ``value`` itself.
    """

    value: Value
    reals: np.ndarray
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Pending:
    """A result that has no scale yet. ``emit(affine, low, high, name)`` makes it."""

    emit: Callable[[Affine, float, float, str], Value]
    low: float = -INF
    high: float = INF


@dataclass(frozen=True)
class FloatInput:
    info: InputInfo


Real = Constant | Function | Pending | FloatInput


def quantize_float32(reals: np.ndarray, affine: Affine) -> np.ndarray:
    """``QuantizeLinear`` as runtimes compute it: a float32 division, halves to even, then saturation."""
    scaled = np.rint(np.asarray(reals, np.float32) / np.float32(affine.scale))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=1e6, neginf=-1e6)
    return np.clip(np.clip(scaled, -1e6, 1e6) + affine.zero_point, -128, 127).astype(np.int8)


def activate(node: NodeInfo, model: Model, x: np.ndarray) -> np.ndarray:
    """The activation ``node`` of float32 values, as onnxruntime computes it."""
    one = np.float32(1)
    bounds = clip_bounds(node, model)
    if bounds is not None:
        return np.clip(x, np.float32(bounds[0]), np.float32(bounds[1]))
    if node.op == "Sigmoid":
        return (one / (one + np.exp(-np.clip(x, -80, 80)))).astype(np.float32)
    if node.op == "HardSwish":
        slope, offset = np.float32(1 / 6), np.float32(0.5)
    else:
        slope, offset = np.float32(node.attribute("alpha", 0.2)), np.float32(node.attribute("beta", 0.5))
    gate = np.clip(slope * x + offset, np.float32(0), one)
    return x * gate if node.op == "HardSwish" else gate


def scalar(constant: Constant, shape: Shape) -> np.float32 | None:
    """The one value of a constant operand; ``None`` if it has several, or widens an operand of that shape."""
    values = constant.reals
    dims = (1,) * (4 - values.ndim) + values.shape
    height, width, channels = shape
    fits = len(dims) == 4 and all(
        n in (1, m) for n, m in zip(dims, (1, channels, height, width), strict=True)
    )
    # A vector that lost its height and width has its channels last.
    fits = fits or (values.ndim < 3 and shape[:2] == (1, 1) and values.size in (1, channels))
    if not fits or values.size < 1 or (values != values.flat[0]).any():
        return None
    return np.float32(values.flat[0])


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(a, b)


# Arithmetic on functions of one tensor.
BINARY: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
}
