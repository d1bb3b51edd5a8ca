"""TFLite operators that move or interpolate pixels, as typed descriptions (see ``operators``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import Window
from mnv3c.frontend.tflite import operators as ops
from mnv3c.frontend.tflite.reader import Model, OperatorInfo, TensorInfo
from mnv3c.ir.graph import Shape

# Newest version of each operator that means what this front end does with it.
NEWEST = {
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "ARG_MAX": 3,
    "CONCATENATION": 4,
    "PAD": 4,
    "PADV2": 4,
    "SLICE": 5,
    "STRIDED_SLICE": 7,
    "SPLIT": 4,
    "SPLIT_V": 2,
    "TRANSPOSE_CONV": 4,
    "MAX_POOL_2D": 3,
}


@dataclass(frozen=True)
class Resize(ops.Operator):
    """``kind``, ``coordinates`` and ``rounding`` are those of ``float_ops.Resize``."""

    kind: str = "bilinear"
    coordinates: str = "asymmetric"
    rounding: str = "floor"


@dataclass(frozen=True)
class ArgMax(ops.Operator):
    """Over the channels of a map."""


@dataclass(frozen=True)
class Concat(ops.Operator):
    """``parts`` are all operands; ``axis`` is 0 (height), 1 (width) or 2 (channels)."""

    parts: tuple[TensorInfo, ...] = ()
    axis: int = 2


@dataclass(frozen=True)
class Pad(ops.Operator):
    """Zeros around height and width: (top, left, bottom, right)."""

    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Slice(ops.Operator):
    """A box of the output's shape, from ``begin`` (height, width, channel)."""

    begin: Shape = (0, 0, 0)


@dataclass(frozen=True)
class TransposedConvolution(ops.Convolution):
    """``window.pad`` is what is cut off the full result, as in ``float_ops.TransposedConv2d``."""


@dataclass(frozen=True)
class MaxPool(ops.AveragePool):
    """Maximum over windows."""


def _resize(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    x, output = ops.base(model, op)
    size = ops.constant(model.tensors[op.inputs[1]], "size", place).ravel()
    options = op.options or {"AlignCorners": 0, "HalfPixelCenters": 0}
    aligned, half = bool(options["AlignCorners"]), bool(options["HalfPixelCenters"])
    if aligned and half:
        raise Mnv3cError("has aligned corners and half pixels at once", place)
    if len(size) != 2 or min(size) < 1:
        raise Mnv3cError(f"has size {size.tolist()[:4]}", place)
    ops.expect(model, output, (int(size[0]), int(size[1]), ops.shape_of(x, model.path)[2]), place)
    coordinates = "align_corners" if aligned else "half_pixel" if half else "asymmetric"
    if op.name == "RESIZE_BILINEAR":
        return Resize(place, x, output, kind="bilinear", coordinates=coordinates)
    rounding = "half_up" if aligned or half else "floor"
    return Resize(place, x, output, kind="nearest", coordinates=coordinates, rounding=rounding)


def _argmax(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    x, output = ops.base(model, op)
    axis = ops.constant(model.tensors[op.inputs[1]], "axis", place).ravel()
    rank = len(x.shape)
    if axis.size != 1 or int(axis[0]) not in (-1, rank - 1):
        raise Mnv3cError(f"over axis {axis.tolist()[:4]}; the channels are supported", place)
    channels = ops.shape_of(x, model.path)[2]
    if channels > 256:
        raise Mnv3cError(f"over {channels} channels; up to 256 are supported", place)
    if tuple(output.shape) != tuple(x.shape[:-1]):
        raise Mnv3cError(f"computes {list(x.shape[:-1])}, but its output says {list(output.shape)}", place)
    return ArgMax(place, x, output)


def _concat(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    if min(op.inputs) < 0:
        raise Mnv3cError("lacks an operand", place)
    parts = tuple(model.tensors[i] for i in op.inputs)
    output = model.tensors[op.outputs[0]]
    options = ops.options_of(op, place)
    rank = len(output.shape)
    axis = options["Axis"] % max(rank, 1)
    shapes = [ops.shape_of(t, model.path) for t in parts]
    if rank not in (2, 4) or axis == 0 or any(t.data is not None for t in parts):
        raise Mnv3cError(f"along axis {options['Axis']} of {rank}", place)
    place_of = axis - 1 if rank == 4 else 2
    want = list(shapes[0])
    want[place_of] = sum(s[place_of] for s in shapes)
    if any(
        a != b for s in shapes for i, (a, b) in enumerate(zip(s, shapes[0], strict=True)) if i != place_of
    ):
        raise Mnv3cError(f"cannot join shapes {shapes}", place)
    ops.expect(model, output, (want[0], want[1], want[2]), place)
    low, high = ops.clamp(options, place)
    return Concat(place, parts[0], output, low, high, parts, place_of)


def _pad(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    x, output = ops.base(model, op)
    amounts = ops.constant(model.tensors[op.inputs[1]], "padding", place).astype(np.int64)
    if amounts.shape != (4, 2) or amounts.min() < 0 or amounts.max() > 1 << 12 or amounts[[0, 3]].any():
        raise Mnv3cError("pads something else than height and width", place)
    (top, bottom), (left, right) = amounts[1].tolist(), amounts[2].tolist()
    if op.name == "PADV2" and not _is_zero(model.tensors[op.inputs[2]], x, place):
        raise Mnv3cError("pads with something else than zero", place)
    height, width, channels = ops.shape_of(x, model.path)
    ops.expect(model, output, (height + top + bottom, width + left + right, channels), place)
    return Pad(place, x, output, pad=(top, left, bottom, right))


def _is_zero(value: TensorInfo, x: TensorInfo, place: str) -> bool:
    """Whether a constant of the type of ``x`` stands for zero."""
    number = ops.constant(value, "value", place).ravel()
    zero = x.zero_point[0] if x.zero_point else 0
    return value.dtype == x.dtype and number.size == 1 and float(number[0]) == zero


def _box(
    model: Model, x: TensorInfo, output: TensorInfo, begin: list[int], end: list[int], place: str
) -> ops.Operator:
    """From begin to end of every axis of the file's shape; an alias where that is everything."""
    inside = all(0 <= a < b <= n for a, b, n in zip(begin, end, x.shape, strict=True))
    if not inside or len(x.shape) not in (2, 4) or begin[0] != 0:
        raise Mnv3cError(f"takes {begin} to {end} of {list(x.shape)}", place)
    ops.shape_of(x, model.path)
    size = [b - a for a, b in zip(begin, end, strict=True)]
    if list(output.shape) != size:
        raise Mnv3cError(f"computes {size}, but its output {output.name} says {list(output.shape)}", place)
    if size == list(x.shape):
        return ops.Alias(place, x, output)
    first = (begin[1], begin[2], begin[3]) if len(begin) == 4 else (0, 0, begin[1])
    return Slice(place, x, output, begin=first)


def _slice(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    x, output = ops.base(model, op)
    begin, size = (_integers(model, op.inputs[i], len(x.shape), place) for i in (1, 2))
    end = [n if s == -1 else b + s for n, b, s in zip(x.shape, begin, size, strict=True)]
    return _box(model, x, output, begin, end, place)


def _strided_slice(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    x, output = ops.base(model, op)
    begin, end, steps = (_integers(model, op.inputs[i], len(x.shape), place) for i in (1, 2, 3))
    options = ops.options_of(op, place)
    if any(s != 1 for s in steps) or any(options[f"{m}Mask"] for m in ("Ellipsis", "NewAxis", "ShrinkAxis")):
        raise Mnv3cError(f"steps of {steps}, or a mask but for begin and end, are not supported", place)
    for i, n in enumerate(x.shape):
        low, high, _ = slice(begin[i], end[i]).indices(max(n, 0))
        begin[i] = 0 if options["BeginMask"] >> i & 1 else low
        end[i] = n if options["EndMask"] >> i & 1 else high
    return _box(model, x, output, begin, end, place)


def _split(model: Model, op: OperatorInfo, place: str) -> list[ops.Operator]:
    at = {"SPLIT": (1, 0), "SPLIT_V": (0, 2)}[op.name]
    x = model.tensors[op.inputs[at[0]]]
    (axis,) = _integers(model, op.inputs[at[1]], 1, place)
    if not -len(x.shape) <= axis < len(x.shape):
        raise Mnv3cError(f"along axis {axis} of {list(x.shape)}", place)
    axis %= len(x.shape)
    parts: list[ops.Operator] = []
    begin, end = [0] * len(x.shape), list(x.shape)
    for index in op.outputs:
        output = model.tensors[index]
        if len(output.shape) != len(x.shape):
            raise Mnv3cError(f"has an output of shape {list(output.shape)}", place)
        end[axis] = begin[axis] + output.shape[axis]
        parts.append(_box(model, x, output, list(begin), list(end), place))
        begin[axis] = end[axis]
    if not parts or begin[axis] != x.shape[axis]:
        raise Mnv3cError(f"its parts are not all of {list(x.shape)}", place)
    return parts


def _integers(model: Model, index: int, count: int, place: str) -> list[int]:
    values = ops.constant(model.tensors[index], "list of numbers", place).ravel()
    if values.size != count or values.dtype.kind != "i":
        raise Mnv3cError(f"has {values.size} numbers for {count} dimensions", place)
    return [int(v) for v in values]


def _transposed(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    weight, x, output = model.tensors[op.inputs[1]], model.tensors[op.inputs[2]], model.tensors[op.outputs[0]]
    bias = model.tensors[op.inputs[3]] if len(op.inputs) > 3 and op.inputs[3] >= 0 else None
    options = ops.options_of(op, place)
    data, shape = ops.constant(weight, "weight", place), ops.shape_of(x, model.path)
    wanted = _integers(model, op.inputs[0], 4, place)
    if data.ndim != 4 or min(data.shape) < 1 or data.shape[3] != shape[2]:
        raise Mnv3cError(f"weights {list(weight.shape)} do not fit {shape[2]} channels", place)
    if wanted != list(output.shape) or wanted[0] != 1 or wanted[3] != data.shape[0]:
        raise Mnv3cError(f"computes {wanted}, but its output says {list(output.shape)}", place)
    stride = (options["StrideH"], options["StrideW"])
    if min(stride) < 1 or options["Padding"] not in (0, 1):
        raise Mnv3cError(f"has stride {stride} and padding {options['Padding']}", place)
    pads = []
    for i in range(2):
        cut = (shape[i] - 1) * stride[i] + data.shape[1 + i] - wanted[1 + i]
        before = max(cut, 0) // 2 if options["Padding"] == 0 else 0
        if not (0 <= cut - before < data.shape[1 + i] and before < data.shape[1 + i]):
            raise Mnv3cError(f"its output {wanted} is not what its window covers", place)
        pads.append((before, cut - before))
    if bias is not None and ops.constant(bias, "bias", place).shape != (data.shape[0],):
        raise Mnv3cError(f"has a bias of shape {list(bias.shape)} for {data.shape[0]} channels", place)
    window = Window(stride, (pads[0][0], pads[1][0], pads[0][1], pads[1][1]))
    low, high = ops.clamp(options, place)
    return TransposedConvolution(place, x, output, low, high, weight, bias, window)


def _max_pool(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    found = ops.average_pool(model, op, place)
    return MaxPool(place, found.x, found.output, found.low, found.high, found.kernel, found.window)


RULES: dict[str, Callable[[Model, OperatorInfo, str], ops.Operator | list[ops.Operator]]] = {
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "ARG_MAX": _argmax,
    "CONCATENATION": _concat,
    "PAD": _pad,
    "PADV2": _pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "TRANSPOSE_CONV": _transposed,
    "MAX_POOL_2D": _max_pool,
}
TWO_OPERANDS = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "ARG_MAX", "PAD")
# Operands that there must be, where these are more than two.
OPERANDS = {"PADV2": 3, "SLICE": 3, "STRIDED_SLICE": 4, "SPLIT": 2, "SPLIT_V": 3, "TRANSPOSE_CONV": 3}
SEVERAL_OUTPUTS = ("SPLIT", "SPLIT_V")
