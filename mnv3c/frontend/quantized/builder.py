"""Builds integer graphs out of the operators that quantised file formats have.

Nothing is rounded that the model does not round: adds and products are the exact ones, and asymmetric
uint8 weights keep their nine bits unless ``round_weights`` asks for speed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.collector import Collector
from mnv3c.frontend.quantized.requantization import constant_channels, requantization, wrapping_channels
from mnv3c.frontend.quantized.values import MAX_ELEMENTS, Affine, Value, Window, quant_of
from mnv3c.frontend.quantized.weights import fits_int8, to_int8
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import Graph, Shape


class Builder(Collector):
    """Operators. Every method raises ``Mnv3cError`` naming ``place`` for what cannot be."""

    def __init__(self, *, round_weights: bool = False, round_twice: bool = False) -> None:
        """``round_twice``: requantise as TFLite's built-in kernels do (``Requant.right``)."""
        super().__init__()
        self.round_twice = round_twice
        self.round_weights = round_weights
        self.rounded_channels = 0
        self.wide_layers = 0

    def finish(self, name: str, meta: dict[str, object]) -> Graph:
        """The verified graph, with notes on its weights."""
        if self.rounded_channels:
            self.notes.append(
                f"{self.rounded_channels} weight channels exceed int8: rounded again, at scales of their own"
            )
        if self.wide_layers:
            self.notes.append(
                f"{self.wide_layers} convolutions have 9-bit weights (asymmetric uint8): some products more"
            )
        return super().finish(name, meta)

    def conv(
        self,
        value: Value,
        *,
        weight: np.ndarray,
        weight_scale: np.ndarray,
        bias: np.ndarray,
        window: Window,
        groups: int,
        affine: Affine,
        low: float,
        high: float,
        place: str,
        name: str,
    ) -> Value:
        """Convolution to int8.

        Args:
            weight: integers ``[out, kernel_h, kernel_w, in / groups]``, zero points subtracted.
            weight_scale: ``[out]`` or ``[1]``.
            bias: integers ``[out]`` in units of input scale times weight scale.
            affine: of the result. low, high: clamp on the result's reals.
        """
        shape = self._conv_shape(value, weight.shape, window, groups, place)
        scale = np.broadcast_to(np.asarray(weight_scale, np.float64), shape[2:])
        kept, new_scale, rounded = self._weights(weight, scale, place)
        self.rounded_channels += rounded
        sums = kept.astype(np.int64).sum(axis=(1, 2, 3))
        own_bias = np.rint(bias * (scale / new_scale)).astype(np.int64) - value.affine.zero_point * sums
        ratio = value.affine.scale * new_scale / affine.scale
        spread = np.abs(kept.astype(np.int64)).sum(axis=(1, 2, 3)) * 128
        constant, fixed = constant_channels(own_bias, spread, ratio, affine, affine.clamp(low, high))
        wrapped, wraps = wrapping_channels(kept, own_bias, ratio, affine, affine.clamp(low, high))
        constant, fixed = np.where(wraps, wrapped, constant), fixed | wraps
        # Quantisers give dead channels tiny scales and huge biases, which need not fit anywhere.
        own_bias, ratio = np.where(fixed, 0, own_bias), np.where(fixed, 0.0, ratio)
        kept[fixed] = 0
        requant = self._requant(ratio, affine, low, high, place)
        if fixed.any():
            offset = np.where(fixed, constant, affine.zero_point).astype(np.int16)
            requant = dataclasses.replace(requant, offset=offset)
        worst = np.where(fixed, 0, spread + np.abs(own_bias))
        if int(worst.max()) << requant.shift >= 1 << 31:
            raise Mnv3cError("the accumulator overflows 32 bits: damaged bias or scales", place)
        out = self._tensor(self._free(name), shape, "int8", quant_of(affine))
        self._nodes.append(
            q.QConv(
                f"conv_{out}",
                (self.stored(value),),
                (out,),
                weight=kept,
                bias=own_bias.astype(np.int32),
                requant=requant,
                stride=window.stride,
                pad=window.pad,
                dilation=window.dilation,
                groups=groups,
            )
        )
        return Value(out, out, shape, affine)

    def constant(self, values: np.ndarray, affine: Affine, name: str) -> Value:
        """A tensor of the model, int8 ``(H, W, C)``."""
        height, width, channels = values.shape
        shape = (height, width, channels)
        out = self._tensor(self._free(name), shape, "int8", quant_of(affine))
        self._nodes.append(q.QConstant(f"constant_{out}", (), (out,), values))
        return Value(out, out, shape, affine)

    def add(
        self,
        a: Value,
        b: Value,
        *,
        affine: Affine,
        low: float,
        high: float,
        place: str,
        name: str,
        bits: int = 20,
        signs: tuple[int, int] = (1, 1),
    ) -> Value:
        """Sum of two tensors, broadcast; the larger multiplier is in ``[2**bits, 2 * 2**bits)``.

        Args:
            signs: -1 for an operand that is subtracted.
        """
        shape = broadcast(a.shape, b.shape)
        if shape is None:
            raise Mnv3cError(f"cannot add shapes {a.shape} and {b.shape}", place)
        # In float32, as runtimes compute it: the last bit of a multiplier moves a few results.
        ratios = [float(np.float32(v.affine.scale) / np.float32(affine.scale)) for v in (a, b)]
        if not math.isfinite(max(ratios)):
            raise Mnv3cError("the ratio of its scales is out of range", place)
        for shift in range(min(bits + 1 - math.frexp(max(ratios))[1], 30), 0, -1):
            multipliers = [s * round(math.ldexp(r, shift)) for r, s in zip(ratios, signs, strict=True)]
            bias = -sum(m * v.affine.zero_point for m, v in zip(multipliers, (a, b), strict=True))
            if 128 * sum(map(abs, multipliers)) + abs(bias) + (1 << shift) < 1 << 31:
                break
        else:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        limits = affine.clamp(low, high)
        out = self._tensor(self._free(name), shape, "int8", quant_of(affine))
        self._nodes.append(
            q.QAdd32(
                f"add_{out}",
                (self.stored(a), self.stored(b)),
                (out,),
                multipliers=(multipliers[0], multipliers[1]),
                shift=shift,
                bias=bias,
                offset=affine.zero_point,
                low=limits[0],
                high=limits[1],
            )
        )
        return Value(out, out, shape, affine)

    def multiply(
        self, x: Value, y: Value, *, affine: Affine, low: float, high: float, place: str, name: str
    ) -> Value:
        """Product of two tensors, broadcast; the smaller is the second operand, as an SE gate is."""
        shape = broadcast(x.shape, y.shape)
        if shape is None:
            raise Mnv3cError(f"cannot multiply shapes {x.shape} and {y.shape}", place)
        if math.prod(x.shape) < math.prod(y.shape):
            x, y = y, x
        requant = self._requant(
            np.array([x.affine.scale * y.affine.scale / affine.scale]), affine, low, high, place
        )
        if requant.shift > 14:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        stored = self.stored(x), self.stored(y)
        out = self._tensor(self._free(name), shape, "int8", quant_of(affine))
        self._nodes.append(
            q.QMultiply(
                f"multiply_{out}",
                stored,
                (out,),
                zero_points=(x.affine.zero_point, y.affine.zero_point),
                multiplier=int(requant.multiplier[0]),
                shift=requant.shift,
                offset=affine.zero_point,
                low=requant.low,
                high=requant.high,
                right=0 if requant.right is None else int(requant.right[0]),
            )
        )
        return Value(out, out, shape, affine)

    def mean(
        self,
        value: Value,
        *,
        affine: Affine,
        low: float,
        high: float,
        place: str,
        name: str,
        halves: str = "up",
        zero_apart: bool = False,
    ) -> Value:
        """Mean over height and width.

        Args:
            halves: ``up`` or ``even``: how an exact half rounds where the scale stays the same.
            zero_apart: where the scale changes, move the input's zero point to the output's scale and
                round it on its own, as TFLite's ``MEAN`` does.
        """
        height, width, channels = value.shape
        count = height * width
        if count == 1:
            moved = affine.quantize(np.clip(value.affine.reals(), low, high))
            return self.table(value, moved, affine, name)
        if count * 255 >= 1 << 31:
            raise Mnv3cError("a pool over too many values", place)
        total = self._tensor(self._free(f"{name}_sum"), (1, 1, channels), "int32", None)
        self._nodes.append(q.ChannelSum(f"sum_{total}", (self.stored(value),), (total,)))
        if value.affine == affine and halves == "even":
            limits = affine.clamp(low, high)
            out = self._tensor(self._free(name), (1, 1, channels), "int8", quant_of(affine))
            self._nodes.append(q.QMean(f"mean_{out}", (total,), (out,), count, affine.zero_point, *limits))
            return Value(out, out, (1, 1, channels), affine)
        if value.affine == affine:
            # Sums of q + 128 are not negative: with a multiplier rounded up, halves of an exact mean
            # round up as they do in uint8, and never by accident down.
            bias, offset = 128 * count, -128
            requant = self._requant(np.array([1 / count] * channels), affine, low, high, place)
            multiplier = np.full(channels, -(-(1 << 31) // count), np.int32)
            offsets = np.array([offset], np.int16)
            requant = dataclasses.replace(requant, multiplier=multiplier, offset=offsets, shift=0, right=None)
        else:
            bias = -value.affine.zero_point * count
            ratio = value.affine.scale / (affine.scale * count)
            offset = affine.zero_point
            if zero_apart:
                # In float32, as TFLite computes both: the last bit of the multiplier moves a few results.
                scales = np.float32(value.affine.scale), np.float32(affine.scale)
                ratio = float(scales[0] / (np.float32(count) * scales[1]))
                zero = float(np.float32(value.affine.zero_point) * scales[0] / scales[1])
                bias, offset = 0, affine.zero_point - math.trunc(zero + math.copysign(0.5, zero))
            requant = self._requant(np.full(channels, ratio), affine, low, high, place)
            if zero_apart:
                if abs(offset) > 32000:
                    raise Mnv3cError("the ratio of its scales is out of range", place)
                requant = dataclasses.replace(requant, offset=np.array([offset], np.int16))
        if (count * 128 + abs(bias)) << requant.shift >= 1 << 31:
            raise Mnv3cError("the pool's sum overflows 32 bits: damaged scales", place)
        out = self._tensor(self._free(name), (1, 1, channels), "int8", quant_of(affine))
        self._nodes.append(
            q.Requantize(
                f"mean_{out}", (total,), (out,), bias=np.full(channels, bias, np.int32), requant=requant
            )
        )
        return Value(out, out, (1, 1, channels), affine)

    def average(
        self,
        value: Value,
        kernel: tuple[int, int],
        window: Window,
        *,
        affine: Affine,
        low: float,
        high: float,
        place: str,
        name: str,
    ) -> Value:
        """Average over windows: a depthwise convolution with weights of one."""
        if window.output(value.shape[:2], kernel) == (1, 1) and kernel == value.shape[:2]:
            return self.mean(value, affine=affine, low=low, high=high, place=place, name=name)
        if any(window.pad):
            raise Mnv3cError("an average pool with padding is not supported", place)
        channels = value.shape[2]
        if channels * kernel[0] * kernel[1] > MAX_ELEMENTS:
            raise Mnv3cError(f"kernel {kernel} is too large", place)
        return self.conv(
            value,
            weight=np.ones((channels, *kernel, 1), np.int64),
            weight_scale=np.array([1 / (kernel[0] * kernel[1])]),
            bias=np.zeros(channels, np.int64),
            window=window,
            groups=channels,
            affine=affine,
            low=low,
            high=high,
            place=place,
            name=name,
        )

    def reshape(self, value: Value, shape: Shape, place: str) -> Value:
        """Only where it is no movement: from and to a vector ``(1, 1, C)``."""
        if value.shape != shape:
            raise Mnv3cError(f"reshape from {value.shape} to {shape} is not supported", place)
        return value

    def _conv_shape(
        self, value: Value, kernel_shape: tuple[int, ...], window: Window, groups: int, place: str
    ) -> Shape:
        out, kernel_height, kernel_width, per_group = kernel_shape
        if groups < 1 or per_group * groups != value.shape[2] or out % groups or min(kernel_shape) < 1:
            raise Mnv3cError(
                f"weights {kernel_shape} in {groups} groups do not fit an input of {value.shape[2]} channels",
                place,
            )
        if min(*window.stride, *window.dilation) < 1 or min(window.pad) < 0:
            raise Mnv3cError("stride, dilation or padding is out of range", place)
        height, width = window.output(value.shape[:2], (kernel_height, kernel_width))
        if height < 1 or width < 1:
            raise Mnv3cError("the window is larger than its input", place)
        return height, width, out

    def _weights(
        self, weight: np.ndarray, scale: np.ndarray, place: str
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """int8 weights; int16 ones where they do not fit and may not be rounded."""
        if self.round_weights or fits_int8(weight):
            return to_int8(weight, scale)
        if int(np.abs(weight).max()) > 255:
            raise Mnv3cError("has weights beyond nine bits", place)
        self.wide_layers += 1
        return weight.astype(np.int16), np.array(scale, np.float64), 0

    def _requant(self, scale: np.ndarray, affine: Affine, low: float, high: float, place: str) -> q.Requant:
        return requantization(scale, affine, low, high, round_twice=self.round_twice, place=place)
