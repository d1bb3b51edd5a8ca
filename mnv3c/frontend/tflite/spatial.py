"""TFLite operators that move or interpolate pixels, as typed descriptions (see ``operators``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.tflite import operators as ops
from mnv3c.frontend.tflite.reader import Model, OperatorInfo, TensorInfo

# Newest version of each operator that means what this front end does with it.
NEWEST = {
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "ARG_MAX": 3,
    "CONCATENATION": 4,
    "PAD": 4,
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
    height, width, channels = ops.shape_of(x, model.path)
    ops.expect(model, output, (height + top + bottom, width + left + right, channels), place)
    return Pad(place, x, output, pad=(top, left, bottom, right))


def _max_pool(model: Model, op: OperatorInfo, place: str) -> ops.Operator:
    found = ops.average_pool(model, op, place)
    return MaxPool(place, found.x, found.output, found.low, found.high, found.kernel, found.window)


RULES: dict[str, Callable[[Model, OperatorInfo, str], ops.Operator]] = {
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "ARG_MAX": _argmax,
    "CONCATENATION": _concat,
    "PAD": _pad,
    "MAX_POOL_2D": _max_pool,
}
TWO_OPERANDS = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "ARG_MAX", "PAD")
