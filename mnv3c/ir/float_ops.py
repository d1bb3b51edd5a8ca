"""Operators of the float graph: what the network means before any quantisation.

The front ends produce this from canonical Relax (batch norm folded, one form of every activation),
the quantiser consumes it. Shapes are ``(H, W, C)``; weights are float32 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.ir.graph import Node


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """Convolution with bias. Fully connected is a 1x1 convolution of a ``(1, 1, C)`` tensor.

    Attributes:
        weight: float32 ``[out, kernel_h, kernel_w, in / groups]``.
        bias: float32 ``[out]``.
        stride, dilation: ``(vertical, horizontal)``.
        pad: ``(top, left, bottom, right)``; padded with zero.
        groups: 1, or the channel count for a depthwise convolution, or anything between.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Activation(Node):
    """Element-wise non-linearity.

    Attributes:
        kind: ``clip`` (``min(max(x, low), high)``: ReLU is ``0, inf``, ReLU6 ``0, 6``),
            ``hard_swish`` (``x * clip(slope * x + offset, 0, 1)``),
            ``hard_sigmoid`` (``clip(slope * x + offset, 0, 1)``), ``sigmoid``.
        low, high: bounds of ``clip``.
        slope, offset: of ``hard_swish`` and ``hard_sigmoid``; 1/6 and 1/2 in MobileNetV3 (section
            5.2), 0.2 and 1/2 in Paddle's hard sigmoid.
    """

    kind: str
    low: float = float("-inf")
    high: float = float("inf")
    slope: float = 1.0 / 6.0
    offset: float = 0.5


@dataclass(frozen=True)
class Add(Node):
    """``inputs[0] + inputs[1]``: of equal shapes (the residual connection), or broadcast."""


@dataclass(frozen=True)
class Multiply(Node):
    """``inputs[0] * inputs[1]``: of equal shapes, or broadcast; a gate, such as SE's, is the second."""


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """A tensor that depends on no input: an operand of a sum or product that differs from pixel to pixel.

    Attributes:
        values: float32 ``(H, W, C)``.
    """

    values: np.ndarray


@dataclass(frozen=True)
class GlobalAveragePool(Node):
    """``(H, W, C)`` to ``(1, 1, C)``."""


@dataclass(frozen=True)
class Pool(Node):
    """Average or max pooling over windows.

    Attributes:
        kind: ``average`` or ``max``.
        count_include_pad: whether padded zeros count in an average.
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_include_pad: bool = False


@dataclass(frozen=True)
class Softmax(Node):
    """Softmax over the channels, or over each of ``groups`` runs of channels (the classes of an anchor)."""

    groups: int = 1


@dataclass(frozen=True)
class Resize(Node):
    """Interpolation to the height and width of the output tensor (``mnv3c.ir.positions``).

    Attributes:
        kind: ``bilinear`` or ``nearest``.
        coordinates: ``align_corners``, ``half_pixel`` or ``asymmetric``.
        rounding: of ``nearest``: ``floor``, ``ceil``, ``half_down`` or ``half_up``.
    """

    kind: str
    coordinates: str
    rounding: str = "floor"


@dataclass(frozen=True)
class ArgMax(Node):
    """Number of the greatest channel, the first of equals: ``(H, W, C)`` to ``(H, W, 1)``."""


@dataclass(frozen=True)
class Concat(Node):
    """The inputs one behind the other along ``axis``: 0 height, 1 width, 2 channels."""

    axis: int


@dataclass(frozen=True)
class Slice(Node):
    """A box out of the input: the output's shape, from ``begin`` (height, width, channel)."""

    begin: tuple[int, int, int]


@dataclass(frozen=True)
class Spread(Node):
    """Pixels set apart by zeros, and zeros around them: padding where ``stride`` is 1.

    Attributes:
        stride: ``(vertical, horizontal)`` distance of two input pixels in the output.
        pad: ``(top, left, bottom, right)``.
    """

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class TransposedConv2d(Node):
    """The gradient of a convolution: ``out[y * stride - pad + i] += weight[i] * in[y]``, plus bias.

    Attributes:
        weight: float32 ``[out, kernel_h, kernel_w, in]``.
        bias: float32 ``[out]``.
        pad: ``(top, left, bottom, right)``, cut off the full result.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
