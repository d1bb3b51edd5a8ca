"""Builds integer graphs out of the operators that quantised file formats have.

Everything is int8 here: a uint8 tensor ``q`` with zero point ``z`` is the int8 tensor ``q - 128`` with
zero point ``z - 128``, without loss. Element-wise functions of one int8 tensor are 256-entry tables;
chains of them are composed and reach the graph as one ``QLut`` where something needs the result in
memory. Nothing is rounded that the model does not round: adds and products are the exact ones, and
asymmetric uint8 weights keep their nine bits unless ``round_weights`` asks for speed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.weights import fits_int8, to_int8
from mnv3c.ir import int_ops as q
from mnv3c.ir.count import count_classes
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.verify import InvalidGraph, verify
from mnv3c.reference.arithmetic import quantize_multiplier
from mnv3c.reference.windows import window_output_size

IDENTITY = np.arange(-128, 128, dtype=np.int8)
# Activations beyond this are no network for a small core; a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28
# Beyond these a scale is damage: products and ratios of two still fit float32.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**60


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


class Builder:
    """Collects nodes and tensors. Every method raises ``Mnv3cError`` naming ``place`` for what cannot be."""

    def __init__(self, *, round_weights: bool = False, round_twice: bool = False) -> None:
        """``round_twice``: requantise as TFLite's built-in kernels do (``Requant.right``)."""
        self.notes: list[str] = []
        self.round_twice = round_twice
        self.round_weights = round_weights
        self.rounded_channels = 0
        self.wide_layers = 0
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._tables: dict[tuple[str, bytes], str] = {}

    # ---- doors ----

    def input(self, name: str, shape: Shape, dtype: str, affine: Affine, quantized: str = "") -> Value:
        """A graph input of ``uint8``, ``int8`` or ``float32``; ``quantized`` names a float's int8 form."""
        check_shape(shape, name)
        if dtype == "uint8":
            raw = Quant((affine.scale,), (affine.zero_point + 128,))
            outer = self._tensor(name, shape, "uint8", raw)
            inner = self._tensor(self._free(f"{name}_int8"), shape, "int8", _quant(affine))
            self._nodes.append(q.FlipSign(f"flip_{inner}", (outer,), (inner,)))
        elif dtype == "float32":
            outer = self._tensor(name, shape, "float32", None)
            inner = self._tensor(self._free(quantized or f"{name}_int8"), shape, "int8", _quant(affine))
            inverse = float(np.float32(1.0 / affine.scale))
            self._nodes.append(
                q.Quantize(f"quantize_{inner}", (outer,), (inner,), (inverse,), (affine.zero_point,))
            )
        else:
            outer = inner = self._tensor(name, shape, "int8", _quant(affine))
        self._inputs.append(outer)
        return Value(inner, inner, shape, affine)

    def output(self, value: Value, dtype: str, name: str) -> None:
        """Make ``value`` a graph output, as ``uint8``, ``int8`` or ``float32``."""
        stored = self.stored(value)
        if self._tensors[stored].dtype == "uint8":  # class numbers
            dtype = ""
        if dtype == "int8" and stored in self._inputs:
            copy = self._tensor(self._free(name), value.shape, "int8", _quant(value.affine))
            self._nodes.append(q.QLut(f"lut_{copy}", (stored,), (copy,), IDENTITY))
            stored = copy
        if dtype == "uint8":
            raw = Quant((value.affine.scale,), (value.affine.zero_point + 128,))
            out = self._tensor(self._free(name), value.shape, "uint8", raw)
            self._nodes.append(q.FlipSign(f"flip_{out}", (stored,), (out,)))
        elif dtype == "float32":
            out = self._tensor(self._free(name), value.shape, "float32", None)
            scale, zero = (float(np.float32(value.affine.scale)),), (value.affine.zero_point,)
            self._nodes.append(q.Dequantize(f"dequantize_{out}", (stored,), (out,), scale, zero))
        else:
            out = stored
        if out in self._outputs:
            raise Mnv3cError("is an output twice", name)
        self._outputs.append(out)

    # ---- operators ----

    def stored(self, value: Value) -> str:
        """The tensor that holds ``value``; emits a ``QLut`` the first time one is needed."""
        if value.is_stored:
            return value.tensor
        key = (value.tensor, value.table.tobytes())
        if key not in self._tables:
            name = self._tensor(self._free(value.name), value.shape, "int8", _quant(value.affine))
            self._nodes.append(q.QLut(f"lut_{name}", (value.tensor,), (name,), value.table))
            self._tables[key] = name
        return self._tables[key]

    def emit(
        self,
        node: Callable[..., Node],
        values: tuple[Value, ...],
        shape: Shape,
        affine: Affine,
        name: str,
        dtype: str = "int8",
        **fields: object,
    ) -> Value:
        """One ``node`` that reads ``values`` from memory and writes a tensor of that shape."""
        stored = tuple(self._stored_as_meant(v) for v in values)
        quant = Quant((1.0,)) if dtype == "uint8" else _quant(affine)
        out = self._tensor(self._free(name), shape, dtype, quant)
        self._nodes.append(node(f"{out}_node", stored, (out,), **fields))
        return Value(out, out, shape, affine)

    def _stored_as_meant(self, value: Value) -> str:
        """As ``stored``, with a copy where the tensor's integers stand for other reals than the value's."""
        stored = self.stored(value)
        if self._tensors[stored].quant == _quant(value.affine):
            return stored
        copy = self._tensor(self._free(value.name), value.shape, "int8", _quant(value.affine))
        self._nodes.append(q.QLut(f"lut_{copy}", (stored,), (copy,), IDENTITY))
        return copy

    def table(self, value: Value, table: np.ndarray, affine: Affine, name: str) -> Value:
        """``table[value + 128]``; nothing is emitted yet."""
        composed = table[value.table.astype(np.int64) + 128].astype(np.int8)
        return dataclasses.replace(value, name=name, affine=affine, table=composed)

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
        constant, fixed = _constant_channels(own_bias, spread, ratio, affine, affine.clamp(low, high))
        wrapped, wraps = _wrapping_channels(kept, own_bias, ratio, affine, affine.clamp(low, high))
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
        out = self._tensor(self._free(name), shape, "int8", _quant(affine))
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
    ) -> Value:
        """Sum of two tensors of one shape; the larger multiplier is in ``[2**bits, 2 * 2**bits)``."""
        if a.shape != b.shape:
            raise Mnv3cError(f"cannot add shapes {a.shape} and {b.shape}", place)
        # In float32, as runtimes compute it: the last bit of a multiplier moves a few results.
        ratios = [float(np.float32(v.affine.scale) / np.float32(affine.scale)) for v in (a, b)]
        if not math.isfinite(max(ratios)):
            raise Mnv3cError("the ratio of its scales is out of range", place)
        for shift in range(min(bits + 1 - math.frexp(max(ratios))[1], 30), 0, -1):
            multipliers = [round(math.ldexp(r, shift)) for r in ratios]
            bias = -sum(m * v.affine.zero_point for m, v in zip(multipliers, (a, b), strict=True))
            if 128 * sum(multipliers) + abs(bias) + (1 << shift) < 1 << 31:
                break
        else:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        limits = affine.clamp(low, high)
        out = self._tensor(self._free(name), a.shape, "int8", _quant(affine))
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
        return Value(out, out, a.shape, affine)

    def multiply(
        self, x: Value, y: Value, *, affine: Affine, low: float, high: float, place: str, name: str
    ) -> Value:
        """Product of ``x`` and ``y``, which is of the same shape or one value a channel (the SE gate)."""
        if y.shape not in (x.shape, (1, 1, x.shape[2])):
            raise Mnv3cError(f"cannot multiply shapes {x.shape} and {y.shape}", place)
        requant = self._requant(
            np.array([x.affine.scale * y.affine.scale / affine.scale]), affine, low, high, place
        )
        if requant.shift > 14:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        stored = self.stored(x), self.stored(y)
        out = self._tensor(self._free(name), x.shape, "int8", _quant(affine))
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
        return Value(out, out, x.shape, affine)

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
            out = self._tensor(self._free(name), (1, 1, channels), "int8", _quant(affine))
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
        out = self._tensor(self._free(name), (1, 1, channels), "int8", _quant(affine))
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

    # ---- the end ----

    def finish(self, name: str, meta: dict[str, object]) -> Graph:
        """The verified graph."""
        if self.rounded_channels:
            self.notes.append(
                f"{self.rounded_channels} weight channels exceed int8: rounded again, at scales of their own"
            )
        if self.wide_layers:
            self.notes.append(
                f"{self.wide_layers} convolutions have 9-bit weights (asymmetric uint8): slower kernels"
            )
        graph = Graph(
            name=identifier(name),
            nodes=tuple(self._nodes),
            tensors=self._tensors,
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            meta={**meta, "notes": list(self.notes)},
        )
        if not graph.outputs or not graph.inputs:
            raise Mnv3cError("has no input or no output", name)
        graph = graph.replace(meta={**graph.meta, "classes": count_classes(graph)})
        try:
            return verify(graph)
        except InvalidGraph as error:
            raise Mnv3cError(f"does not make a well-formed graph: {error}", name) from None

    # ---- helpers ----

    def _free(self, name: str) -> str:
        """``name``, with a number where it is taken."""
        free, i = name, 2
        while free in self._tensors:
            free, i = f"{name}_{i}", i + 1
        return free

    def _tensor(self, name: str, shape: Shape, dtype: str, quant: Quant | None) -> str:
        check_shape(shape, name)
        if name in self._tensors:
            raise Mnv3cError("two tensors of this name", name)
        self._tensors[name] = Tensor(name, shape, dtype, quant)
        return name

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
        if not np.isfinite(scale).all() or float(scale.max()) >= 2.0**20:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        limits = affine.clamp(low, high)
        offset = np.array([affine.zero_point], np.int16)
        if not self.round_twice:
            multiplier, shift = quantize_multiplier(scale)
            return q.Requant(multiplier, shift, offset, *limits)
        fraction, exponent = np.frexp(scale)
        multiplier = np.rint(np.ldexp(fraction, 31)).astype(np.int64)
        carry = multiplier == 1 << 31
        multiplier, exponent = np.where(carry, multiplier >> 1, multiplier), exponent + carry
        shift = max(int(exponent.max()), 0)
        right = shift - exponent
        # What is shifted further right than this is nothing in any case.
        nothing = (multiplier == 0) | (right > 30)
        multiplier, right = np.where(nothing, 0, multiplier), np.where(nothing, 0, right)
        return q.Requant(multiplier.astype(np.int32), shift, offset, *limits, right=right.astype(np.int8))


def _constant_channels(
    bias: np.ndarray, spread: np.ndarray, ratio: np.ndarray, affine: Affine, limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int8 result of each channel at the top of its range, and whether it is the same at the bottom."""
    low, high = (
        np.clip(np.rint((bias + end) * ratio) + affine.zero_point, *limits).astype(np.int64)
        for end in (-spread, spread)
    )
    return high, low == high


def _wrapping_channels(
    weight: np.ndarray, bias: np.ndarray, ratio: np.ndarray, affine: Affine, limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int8 result of channels whose sums pass the end of 32 bits, and which these are.

    Quantisers give nearly dead channels biases of 2**31 - 1. Runtimes then wrap round, or not, as the
    input has it; the result is taken that an input in the middle of its range gives. Only where all
    weights together move it by less than half a step; others are left for the caller to refuse.
    """
    w = weight.reshape(len(weight), -1).astype(np.int64)
    low, high = (np.where(w > 0, w * a, w * b).sum(axis=1) for a, b in ((-128, 127), (127, -128)))
    half = 1 << 31
    wraps = (bias + high >= half) | (bias + low < -half)
    middle = (bias + (low + high) // 2 + half) % (2 * half) - half
    result = np.clip(np.rint(middle * ratio) + affine.zero_point, *limits).astype(np.int64)
    return result, wraps & ((high - low) * ratio < 0.5)


def check_shape(shape: Shape, place: str) -> None:
    """Raise ``Mnv3cError`` unless ``shape`` is positive and of a sane size."""
    if min(shape) < 1:
        raise Mnv3cError(f"shape {shape} is not positive (dynamic shapes are not supported)", place)
    if shape[0] * shape[1] * shape[2] > MAX_ELEMENTS:
        raise Mnv3cError(f"shape {shape} is too large", place)


def _quant(affine: Affine) -> Quant:
    return Quant((float(affine.scale),), (int(affine.zero_point),))
