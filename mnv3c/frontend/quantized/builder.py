"""Builds integer graphs out of the operators that quantised file formats have.

Everything is int8 here: a uint8 tensor ``q`` with zero point ``z`` is the int8 tensor ``q - 128`` with
zero point ``z - 128``, without loss. Element-wise functions of one int8 tensor are 256-entry tables;
chains of them are composed and reach the graph as one ``QLut`` where something needs the result in
memory, or as a ``QLut16`` where it is an SE gate.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.weights import to_int8
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.verify import InvalidGraph, verify
from mnv3c.reference.arithmetic import quantize_multiplier, rdmulh16
from mnv3c.reference.windows import window_output_size

IDENTITY = np.arange(-128, 128, dtype=np.int8)
# Activations beyond this are no network for a small core; a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28


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

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.rounded_channels = 0
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._tables: dict[tuple[str, bytes], str] = {}

    # ---- doors ----

    def input(self, name: str, shape: Shape, dtype: str, affine: Affine, quantized: str = "") -> Value:
        """A graph input of ``uint8``, ``int8`` or ``float32``; ``quantized`` names the int8 form of a float."""
        check_shape(shape, name)
        if dtype == "uint8":
            raw = Quant((affine.scale,), (affine.zero_point + 128,))
            outer = self._tensor(name, shape, "uint8", raw)
            inner = self._tensor(f"{name}_int8", shape, "int8", _quant(affine))
            self._nodes.append(q.FlipSign(f"flip_{inner}", (outer,), (inner,)))
        elif dtype == "float32":
            outer = self._tensor(name, shape, "float32", None)
            inner = self._tensor(quantized or f"{name}_int8", shape, "int8", _quant(affine))
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
        if out in self._outputs or out in self._inputs:
            raise Mnv3cError("is an output twice, or an input and an output", name)
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
        kept, new_scale, rounded = to_int8(weight, scale)
        self.rounded_channels += rounded
        sums = kept.astype(np.int64).sum(axis=(1, 2, 3))
        own_bias = np.rint(bias * (scale / new_scale)).astype(np.int64) - value.affine.zero_point * sums
        ratio = value.affine.scale * new_scale / affine.scale
        spread = np.abs(kept.astype(np.int64)).sum(axis=(1, 2, 3)) * 128
        constant, fixed = _constant_channels(own_bias, spread, ratio, affine, affine.clamp(low, high))
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
        self, a: Value, b: Value, *, affine: Affine, low: float, high: float, place: str, name: str
    ) -> Value:
        """Sum of two tensors of one shape."""
        if a.shape != b.shape:
            raise Mnv3cError(f"cannot add shapes {a.shape} and {b.shape}", place)
        ratios = [v.affine.scale / affine.scale for v in (a, b)]
        zero = affine.zero_point - sum(r * v.affine.zero_point for r, v in zip(ratios, (a, b), strict=True))
        # The finest unit in which neither the operands, nor their sum, nor the zero points saturate.
        for fraction in range(7, 0, -1):
            unit = 1 << fraction
            multipliers = [round(r * unit * 128) for r in ratios]
            if sum(ratios) * 128 * unit < 32768 and abs(zero) * unit < 32767 and max(multipliers) < 32768:
                break
        else:
            raise Mnv3cError(
                f"scales of {ratios[0]:g} and {ratios[1]:g} times the sum's are too far apart", place
            )
        limits = affine.clamp(low, high)
        out = self._tensor(self._free(name), a.shape, "int8", _quant(affine))
        self._nodes.append(
            q.QAdd(
                f"add_{out}",
                (self.stored(a), self.stored(b)),
                (out,),
                multipliers=(multipliers[0], multipliers[1]),
                fraction=fraction,
                bias=round(zero * unit),
                low=limits[0],
                high=limits[1],
            )
        )
        return Value(out, out, a.shape, affine)

    def gate(
        self,
        x: Value,
        gate: Value,
        reals: np.ndarray,
        *,
        affine: Affine,
        low: float,
        high: float,
        place: str,
        name: str,
    ) -> Value:
        """``x`` times a gate of shape ``(1, 1, C)``.

        Args:
            gate: where the gate comes from; its own table and scale are not used.
            reals: float64 ``[256]``: the gate's real value for each stored int8 value of ``gate.tensor``.
        """
        if gate.shape != (1, 1, x.shape[2]):
            raise Mnv3cError(f"cannot multiply shapes {x.shape} and {gate.shape}", place)
        if (reals < 0).any():
            raise Mnv3cError("multiplies by a gate that can be negative", place)
        ratios = reals * (x.affine.scale / affine.scale)
        shift = 0
        while float(ratios.max()) * 32768 / (1 << shift) > 32766:
            shift += 1
        if shift > 7:
            raise Mnv3cError("the gate's scale is more than 128 times the result's", place)
        wanted = np.rint(ratios * 32768 / (1 << shift)).astype(np.int64)
        # A factor of 32767 / 2**15 takes one off the upper half; the table puts it back.
        table = wanted + (rdmulh16(wanted, np.asarray(32767)) < wanted)
        if not np.array_equal(rdmulh16(table, np.asarray(32767)), wanted):
            raise Mnv3cError("the gate's table cannot be represented", place)
        limits = affine.clamp(low, high)
        stored_x = self.stored(x)
        key = (gate.tensor, table.tobytes())
        if key not in self._tables:
            gate_name = self._tensor(self._free(f"{name}_gate"), gate.shape, "int16", None)
            self._nodes.append(
                q.QLut16(f"lut_{gate_name}", (gate.tensor,), (gate_name,), table.astype(np.int16))
            )
            self._tables[key] = gate_name
        out = self._tensor(self._free(name), x.shape, "int8", _quant(affine))
        self._nodes.append(
            q.QGate(
                f"gate_{out}",
                (stored_x, self._tables[key]),
                (out,),
                factor=np.array([32767], np.int16),
                zero_point=np.array([x.affine.zero_point], np.int16),
                shift=shift,
                offset=affine.zero_point,
                low=limits[0],
                high=limits[1],
            )
        )
        return Value(out, out, x.shape, affine)

    def mean(self, value: Value, *, affine: Affine, low: float, high: float, place: str, name: str) -> Value:
        """Mean over height and width."""
        height, width, channels = value.shape
        count = height * width
        if count == 1:
            moved = affine.quantize(np.clip(value.affine.reals(), low, high))
            return self.table(value, moved, affine, name)
        if count * 255 >= 1 << 31:
            raise Mnv3cError("a pool over too many values", place)
        total = self._tensor(self._free(f"{name}_sum"), (1, 1, channels), "int32", None)
        self._nodes.append(q.ChannelSum(f"sum_{total}", (self.stored(value),), (total,)))
        if value.affine == affine:
            # Sums of q + 128 are not negative: with a multiplier rounded up, halves of an exact mean
            # round up as they do in uint8, and never by accident down.
            bias, multiplier, offset = 128 * count, -(-(1 << 31) // count), -128
            requant = self._requant(np.array([1 / count] * channels), affine, low, high, place)
            requant = dataclasses.replace(
                requant,
                multiplier=np.full(channels, multiplier, np.int32),
                offset=np.array([offset], np.int16),
            )
        else:
            bias = -value.affine.zero_point * count
            ratio = value.affine.scale / (affine.scale * count)
            requant = self._requant(np.full(channels, ratio), affine, low, high, place)
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
                f"{self.rounded_channels} weight channels exceed int8 and were rounded again at their own scale"
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

    def _requant(self, scale: np.ndarray, affine: Affine, low: float, high: float, place: str) -> q.Requant:
        if not np.isfinite(scale).all() or float(scale.max()) >= 2.0**20:
            raise Mnv3cError("the ratio of its scales is out of range", place)
        multiplier, shift = quantize_multiplier(scale)
        limits = affine.clamp(low, high)
        return q.Requant(multiplier, shift, np.array([affine.zero_point], np.int16), *limits)


def _constant_channels(
    bias: np.ndarray, spread: np.ndarray, ratio: np.ndarray, affine: Affine, limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int8 result of each channel at the top of its range, and whether it is the same at the bottom."""
    low, high = (
        np.clip(np.rint((bias + end) * ratio) + affine.zero_point, *limits).astype(np.int64)
        for end in (-spread, spread)
    )
    return high, low == high


def check_shape(shape: Shape, place: str) -> None:
    """Raise ``Mnv3cError`` unless ``shape`` is positive and of a sane size."""
    if min(shape) < 1:
        raise Mnv3cError(f"shape {shape} is not positive (dynamic shapes are not supported)", place)
    if shape[0] * shape[1] * shape[2] > MAX_ELEMENTS:
        raise Mnv3cError(f"shape {shape} is too large", place)


def _quant(affine: Affine) -> Quant:
    return Quant((float(affine.scale),), (int(affine.zero_point),))
