"""Operators of the integer graph. ``docs/numerics.md`` states each one's arithmetic.

Two families. *Primitive* operators come from the quantiser; an int16 tensor between two of them
(a convolution and its h-swish, a projection and its residual add) is where the float network would
not have rounded either. *Fused* operators come from the fusion passes; a fused operator holds the
primitives it replaced and means exactly what they meant, so fusion never changes a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mnv3c.ir.graph import Node


@dataclass(frozen=True, eq=False)
class Requant:
    """int32 accumulator to int16, then optionally to int8 (numerics.md, "Requantisation").

    ``v = sat16(rdmulh32(acc << shift, multiplier[c]))``; an int16 output is ``v``, an int8 output
    is ``min(max(v + offset[c], low), high)``. With ``right``, the product is rounded a second time before
    it saturates: ``v = sat16(rshr(rdmulh32(acc << shift, multiplier[c]), right[c]))``.

    Attributes:
        multiplier: int32 ``[C]``, each in ``[0, 2**31)``; the scale is ``multiplier / 2**31 * 2**shift``.
        shift: left shift of the accumulator, 0 in all but rare layers; must not overflow int32.
        offset: int16 ``[C]`` or ``[1]``, added after narrowing; our own quantiser folds it into the
            bias and leaves zero here.
        low, high: int8 clamp, both within [-128, 127].
        right: int8 ``[C]`` in [0, 30], or ``None``: for models whose own runtime rounds twice (TFLite's
            built-in kernels); the multipliers then use all of their bits.
    """

    multiplier: np.ndarray
    shift: int = 0
    offset: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int16))
    low: int = -128
    high: int = 127
    right: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class QConv(Node):
    """int8 convolution: ``acc = bias + sum(weight * x)`` over the window, then ``requant``.

    ``x`` is int16 with a zero point of 0 where the network is mixed (numerics.md, "16-bit tensors").

    The input's zero point is folded into ``bias``; a tap that falls on padding reads the input
    tensor's zero point (per channel where that is per channel). The output is int8 or int16, as
    the output tensor says.

    Attributes:
        weight: int8 ``[out, kernel_h, kernel_w, in / groups]``, in [-127, 127]; or int16 in [-255, 255],
            which asymmetric uint8 weights need once their zero point is subtracted.
        bias: int32 ``[out]``.
        stride, pad, dilation, groups: as in ``float_ops.Conv2d``.
    """

    weight: np.ndarray
    bias: np.ndarray
    requant: Requant
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weight.shape[1]), int(self.weight.shape[2])

    @property
    def depthwise(self) -> bool:
        """One input channel and one output channel a group, and more than one group."""
        return self.groups > 1 and self.groups == self.weight.shape[0] and self.weight.shape[3] == 1

    @property
    def pointwise(self) -> bool:
        return (
            self.kernel == (1, 1) and self.groups == 1 and self.stride == (1, 1) and self.pad == (0, 0, 0, 0)
        )


@dataclass(frozen=True, eq=False)
class QHardSwish(Node):
    """h-swish of an int16 tensor to int8 or int16, before the only rounding (numerics.md, "h-swish").

    ``g = sat16(x << shift)``, ``y = sat16(x + rdmulh16(x, g))``,
    ``out = sat8(sat16(rdmulh16(y, multiplier[c]) + offset[c]))``, without ``sat8`` where the output is int16.
    One unit of ``x`` is ``3 * 2**shift / 2**15``, one of ``y`` half of that.

    Attributes:
        shift: 0 to 7; the range of ``x`` is ``+-3 * 2**shift``, that of the result half of it.
        multiplier: int16 ``[C]`` or ``[1]``, in [0, 32767].
        offset: int16 ``[C]`` or ``[1]``: the output's zero point.
    """

    shift: int
    multiplier: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class QHardSigmoid(Node):
    """Hard sigmoid of an int16 tensor to an int16 gate in Q15.

    ``out = max(sat16(x + offset), 0)``; one unit of ``x`` is ``1 / (slope * 2**15)``.
    """

    offset: int = 16384


@dataclass(frozen=True, eq=False)
class QLut(Node):
    """int8 to int8 through a table: ``out = table[x + 128]``. For models that quantise in between.

    Attributes:
        table: int8 ``[256]``.
    """

    table: np.ndarray


@dataclass(frozen=True)
class QAdd(Node):
    """Sum of two tensors to int8 or int16, rounded once (numerics.md, "Residual add", "Broadcasting").

    An int16 operand is already in units of ``2**-fraction`` of the output's scale. An int8 operand
    is first brought there: ``t = rdmulh16(x << 8, multipliers[i])``; so is an int16 one that has a
    multiplier: ``t = rdmulh16(x, multipliers[i])``.
    ``out = min(max(sat8_rounding_shift(sat16(sat16(a + b) + bias), fraction), low), high)``, without
    ``sat8`` and the bounds where the output is int16.

    Attributes:
        multipliers: Q15, one an operand; 0 for an int16 operand that is in the sum's units.
        fraction: 1 to 7.
        bias: int16, in the same units: the zero points; 0 where the convolution before took it.
    """

    multipliers: tuple[int, int]
    fraction: int
    bias: int = 0
    low: int = -128
    high: int = 127


@dataclass(frozen=True)
class QAdd32(Node):
    """Sum of two int8 tensors to int8, rounded once from 32 bits (numerics.md, "Exact add", "Broadcasting").

    For models that store both operands in 8 bits and whose own runtime adds them exactly.
    ``out = min(max(rshr(a * multipliers[0] + b * multipliers[1] + bias, shift) + offset, low), high)``.

    Attributes:
        multipliers: ratios of the operands' scales to the output's, times ``2**shift``; below ``2**22``.
        shift: 1 to 30.
        bias: the operands' zero points times their multipliers, negated.
        offset: the output's zero point.
    """

    multipliers: tuple[int, int]
    shift: int
    bias: int
    offset: int
    low: int = -128
    high: int = 127


@dataclass(frozen=True)
class QMultiply(Node):
    """Product of two int8 tensors to int8, rounded once (numerics.md, "Exact product", "Broadcasting").

    ``inputs = (x, y)``; with ``y`` of shape ``(1, 1, C)`` the SE gate of a model that stores its gate in 8
    bits.
    ``v = sat16(rdmulh32((x - zero_points[0]) * (y - zero_points[1]) << shift, multiplier))``
    (``rda(..., right)`` of the product first where ``right`` is not 0, as in ``Requant``),
    ``out = min(max(v + offset, low), high)``.

    Attributes:
        multiplier, shift, right: as in ``Requant``; ``shift`` is at most 14.
        offset: the output's zero point.
    """

    zero_points: tuple[int, int]
    multiplier: int
    shift: int
    offset: int
    low: int = -128
    high: int = 127
    right: int = 0


@dataclass(frozen=True, eq=False)
class QConstant(Node):
    """A tensor that depends on no input: ``out = values``.

    Attributes:
        values: int8 ``(H, W, C)``.
    """

    values: np.ndarray


@dataclass(frozen=True, eq=False)
class QGate(Node):
    """Product of an int8 tensor and an int16 gate, int8 or int16 (numerics.md, "SE gate", "Broadcasting").

    ``inputs = (x, gate)``, gate is int16 in Q15, ``(1, 1, C)`` in squeeze-and-excite.
    ``G[c] = rdmulh16(gate[c], factor[c])``,
    ``out = min(max(sat16(rdmulh16((x - zero_point[c]) << shift, G[c]) + offset), low), high)``, without
    the bounds where the output is int16.

    Attributes:
        factor: int16 ``[C]`` or ``[1]``, Q15: ratio of input scale to output scale, over ``2**shift``.
        zero_point: int16 ``[C]`` or ``[1]``: the input's zero point.
        shift: 0 to 7.
        offset: the output's zero point.
    """

    factor: np.ndarray
    zero_point: np.ndarray
    shift: int
    offset: int
    low: int = -128
    high: int = 127


@dataclass(frozen=True)
class ChannelSum(Node):
    """Exact sum over height and width: int8 or int16 ``(H, W, C)`` to int32 ``(1, 1, C)``."""


@dataclass(frozen=True, eq=False)
class Requantize(Node):
    """int32 ``(1, 1, C)`` to int8 or int16: adds ``bias[c]``, then ``requant`` (the mean of a pool).

    Attributes:
        bias: int32 ``[C]``.
    """

    bias: np.ndarray
    requant: Requant


@dataclass(frozen=True)
class QMean(Node):
    """int32 sums ``(1, 1, C)`` to int8 means at the summed tensor's own scale, halves to even.

    ``out = min(max(half_even(x / count - zero_point) + zero_point, low), high)``. For runtimes that
    average in float and round so: an even number of pixels makes exact halves often enough to matter.

    Attributes:
        count: how many values each sum is of.
        zero_point: of the summed tensor and of the result.
    """

    count: int
    zero_point: int
    low: int = -128
    high: int = 127


@dataclass(frozen=True)
class QMaxPool(Node):
    """Maximum over windows; padding never wins. The output keeps the input's quantisation."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class QAveragePool(Node):
    """Mean over windows, requantised (numerics.md, "Pooling").

    ``acc = bias[c] + sum`` over the window; then ``requant``, whose multiplier has the division by the
    window's area in it. A tap on padding counts as the input's zero point; with ``count_include_pad``
    false it does not count, and the sum of the ``n`` taps inside is brought to the whole area ``a``
    first: ``floor((2 * sum * a + n) / (2 * n))``.

    Attributes:
        bias: int32 ``[C]``: zero points.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    bias: np.ndarray
    requant: Requant
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_include_pad: bool = False


@dataclass(frozen=True)
class QWindowMean(Node):
    """Mean over windows at the input's own quantisation, for models whose runtime keeps that.

    ``n`` taps inside the map count: ``out = min(max(floor((2 * sum + n) / (2 * n)), low), high)``; with
    ``away`` halves are rounded away from zero instead of up.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    away: bool = False
    low: int = -128
    high: int = 127


@dataclass(frozen=True)
class QSigmoid(Node):
    """Logistic function of an int16 tensor to an int16 gate in Q15 (numerics.md, "Sigmoid").

    One unit of ``x`` is ``2**-12``. Linear between the entries of a table of 257:
    ``i = (x + 32768) >> 8``, ``r = (x + 32768) & 255``,
    ``out = table[i] + (((table[i + 1] - table[i]) * r + 128) >> 8)``.

    Attributes:
        table: ``min(round(2**15 / (1 + exp(-(i - 128) / 16))), 32767)`` for i = 0 to 256.
    """

    table: tuple[int, ...]


@dataclass(frozen=True)
class QSoftmax(Node):
    """Softmax over runs of channels of an int8 tensor, to int8 or int16 (numerics.md, "Softmax").

    Of each run, with ``d[c] = max(x) - x[c]`` and ``total = sum(table[d])``:
    ``out[c] = sat(floor((scaled[d[c]] + floor(total / 2)) / total) + offset)``, to the output's dtype.

    Attributes:
        table: ``round(one * exp(-d * scale))`` for d = 0 to 255, ``one`` a power of two: at most ``2**30``,
            and at most ``2**31`` as the sum of a run.
        scaled: ``round(one * exp(-d * scale) / output scale)``, at most ``2**30``.
        offset: the output's zero point.
        groups: equal runs of neighbouring channels.
    """

    table: tuple[int, ...]
    scaled: tuple[int, ...]
    offset: int
    groups: int = 1


@dataclass(frozen=True)
class QAdd16(Node):
    """Sum of two int16 tensors to int16: ``sat16(rdmulh16(a, m0) + rdmulh16(b, m1))``, or broadcast.

    Attributes:
        multipliers: Q15, ratios of the operands' scales to the output's; all zero points are 0.
    """

    multipliers: tuple[int, int]


@dataclass(frozen=True)
class QResize(Node):
    """Interpolation at the input's own quantisation, int8 or int16 (numerics.md, "Resize").

    Attributes:
        kind, coordinates, rounding: as in ``float_ops.Resize``.
        bits: fraction of the weights of ``bilinear``; at most 11 for int8, 7 for int16.
    """

    kind: str
    coordinates: str
    rounding: str = "floor"
    bits: int = 11


@dataclass(frozen=True)
class QArgMax(Node):
    """Number of the greatest channel, the first of equals: int8 or int16 to uint8 ``(H, W, 1)``."""


@dataclass(frozen=True)
class QConcat(Node):
    """int8 tensors of one quantisation, one behind the other along ``axis`` (height, width, channels)."""

    axis: int


@dataclass(frozen=True)
class QSlice(Node):
    """A box out of an int8 or int16 tensor: the output's shape, from ``begin``."""

    begin: tuple[int, int, int]


@dataclass(frozen=True)
class QSpread(Node):
    """Pixels set apart: ``out[top + y * stride, left + x * stride] = in[y, x]``, the rest is the zero point.

    With ``stride`` 1 this is padding; with more it makes a transposed convolution a plain one.

    Attributes:
        stride: ``(vertical, horizontal)``.
        pad: ``(top, left, bottom, right)``.
    """

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class QDetect(Node):
    """Boxes out of a detector's head: decoding, then non-maximum suppression (numerics.md, "Detection").

    ``inputs`` are box codes of every map, then scores of every map in the same order. A map of ``(H, W)``
    pixels has ``H * W * A`` anchors: channels are ``A`` runs of 4 codes (y, x, height, width), and ``A``
    runs of ``classes`` logits, or scores. ``outputs`` are boxes float32 ``(1, most, 4)`` (top, left, bottom,
    right as shares of the image), scores float32 ``(1, most, 1)``, classes uint8 ``(1, most, 1)`` and their
    count int32 ``(1, 1, 1)``, best first; what is behind the count is zero.

    Attributes:
        anchors: int32 ``[N, 4]``: centre y, centre x, height, width, in units of ``2**-20``.
        box_scales: a map's ``(zero point, multiplier of y and x, multiplier of height and width)``; products
            with ``q - zero point`` have units of ``2**-30`` and ``2**-28``.
        score_scales: a map's ``(zero point, multiplier)``; products have units of ``2**-27`` where they are
            logits, of ``2**-31`` where they are scores.
        classes: logits or scores an anchor.
        first_class: classes below are not looked at: 1 where class 0 is background.
        least: the lowest logit that counts in units of ``2**-11``, or score in units of ``2**-15``.
        overlap: intersection over union from above which the worse box goes, in units of ``2**-15``.
        most: length of the outputs. most_a_class: boxes that a class can have.
        agnostic: an anchor stands for its best class alone, and boxes of different classes suppress each
            other; else each class is on its own.
        score_table: scores in Q15 of logits ``(i - 128) / 8``, ``i`` = 0 to 256; of what are scores
            already, ``min(max(i - 128, 0) * 256, 32767)``.
        exponential: ``round(2**16 * 2**(i / 256))`` for i = 0 to 256.
        x_first: codes and anchors are x, y, width, height; boxes come out as ever.
    """

    anchors: np.ndarray
    box_scales: tuple[tuple[int, int, int], ...]
    score_scales: tuple[tuple[int, int], ...]
    classes: int
    first_class: int
    least: int
    overlap: int
    most: int
    most_a_class: int
    agnostic: bool
    score_table: tuple[int, ...]
    exponential: tuple[int, ...]
    x_first: bool = False

    @property
    def maps(self) -> int:
        return len(self.box_scales)


@dataclass(frozen=True)
class Quantize(Node):
    """float32 to int8 at the library's door: ``sat8(round_half_even(x * inverse_scale[c]) + zero_point[c])``.

    Attributes:
        inverse_scale: float32 values, one or one a channel.
        zero_point: one or one a channel.
    """

    inverse_scale: tuple[float, ...]
    zero_point: tuple[int, ...]


@dataclass(frozen=True)
class FlipSign(Node):
    """uint8 to int8 or back: ``x ^ 0x80``, which is ``x - 128`` without loss."""


@dataclass(frozen=True)
class Dequantize(Node):
    """int8 or int16 to float32: ``scale[c] * (x - zero_point[c])``, one float32 multiplication."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FusedConv(Node):
    """A convolution with what happens to its output before that is ever stored.

    ``inputs[0]`` is the convolution's input; the residual operand, if any, is ``inputs[1]``.
    ``outputs[0]`` is the int8 (or int16) result, ``outputs[1]`` the int32 channel sums, if any.

    Attributes:
        conv: its input and output names are those of the graph before fusion.
        activation: follows ``conv``; at most one of ``activation`` and ``residual`` is set.
        residual: one operand is ``conv``'s int16 output.
        channel_sum: of the result.
    """

    conv: QConv
    activation: QHardSwish | QHardSigmoid | QLut | None = None
    residual: QAdd | None = None
    channel_sum: ChannelSum | None = None

    @property
    def parts(self) -> tuple[Node, ...]:
        """The primitives in execution order."""
        every = (self.conv, self.activation, self.residual, self.channel_sum)
        return tuple(p for p in every if p is not None)


@dataclass(frozen=True)
class FusedResizeArgMax(Node):
    """A resize whose result only ``argmax`` reads: pixel by pixel, nothing of full size but the classes."""

    resize: QResize
    argmax: QArgMax

    @property
    def parts(self) -> tuple[Node, ...]:
        """The primitives in execution order."""
        return self.resize, self.argmax
