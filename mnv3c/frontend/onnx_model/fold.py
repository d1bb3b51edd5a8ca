"""Shape arithmetic: what exporters compute from shapes, evaluated in NumPy."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from mnv3c.frontend.onnx_model.elementwise import FOLDED, arithmetic
from mnv3c.frontend.onnx_model.graph import Constant, Known, Node, Output, Value
from mnv3c.frontend.onnx_model.read import MAX_ELEMENTS, type_name

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def constant(node: Node, out: Output) -> Known:
    """Constant, from whichever attribute it has."""
    if node.has("value"):
        return Constant(node.array_attribute("value"))
    if node.has("value_float"):
        return Constant(np.asarray(node.real("value_float", 0.0), np.float32))
    if node.has("value_int"):
        return Constant(np.asarray(_int64(node, node.integer("value_int", 0))))
    if node.has("value_floats"):
        return Constant(np.asarray(node.reals("value_floats"), np.float32))
    if node.has("value_ints"):
        return Constant(np.asarray(node.integers("value_ints", []), np.int64))
    raise node.error("a constant without a numeric value")


def _int64(node: Node, value: int) -> np.int64:
    if not -(2**63) <= value < 2**63:
        raise node.error(f"value {value}")
    return np.int64(value)


def shape(node: Node, out: Output) -> Known:
    dims = node.input(0).shape
    start, end = node.integer("start", 0), node.integer("end", len(dims))
    return Constant(np.asarray(dims[start:end], np.int64))


def identity(node: Node, out: Output) -> Known:
    """Identity, and Dropout at inference."""
    if len(node.proto.output) > 1 and node.proto.output[1]:
        raise node.error("the mask of a dropout is not supported")
    return node.input(0)


def cast(node: Node, out: Output) -> Known:
    target = node.integer("to", 0)
    known = node.input(0)
    if isinstance(known, Value):
        if target not in _FLOATS:
            raise node.error(f"cast to {type_name(target)} is not supported")
        return known
    if target in _FLOATS:
        return Constant(known.array.astype(np.float32))
    if target in (TensorProto.INT64, TensorProto.INT32):
        if not bool(np.isfinite(known.array).all()):
            raise node.error("cast of a number that is not finite")
        return Constant(known.array.astype(np.int64))
    raise node.error(f"cast to {type_name(target)} is not supported")


def concat(node: Node, out: Output) -> Known:
    arrays = [node.array(i) for i in range(len(node.inputs))]
    if not arrays or len({a.ndim for a in arrays}) != 1 or arrays[0].ndim == 0:
        raise node.error("operands of different ranks")
    if sum(a.size for a in arrays) > MAX_ELEMENTS:
        raise node.error("the result is too large")
    axis = node.axis(node.integer("axis", 0), arrays[0].ndim)
    try:
        return Constant(np.concatenate(arrays, axis))
    except ValueError:
        raise node.error(f"operands of shapes {[list(a.shape) for a in arrays]}") from None


def gather(node: Node, out: Output) -> Known:
    data, index = node.array(0), node.array(1)
    axis = node.axis(node.integer("axis", 0), data.ndim)
    if index.dtype != np.int64 or index.size * data.size > MAX_ELEMENTS:
        raise node.error("indices must be a few integers")
    if index.size and not (-data.shape[axis] <= index.min() and index.max() < data.shape[axis]):
        raise node.error(f"index out of {data.shape[axis]}")
    return Constant(np.take(data, index, axis))


def slice_(node: Node, out: Output) -> Known:
    data = node.array(0)
    if node.opset < 10:
        starts, ends = node.integers("starts", []), node.integers("ends", [])
        axes, steps = node.integers("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = node.integers_of(1), node.integers_of(2)
        axes = node.integers_of(3) if node.optional(3) is not None else list(range(len(starts)))
        steps = node.integers_of(4) if node.optional(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.error("starts, ends, axes and steps disagree")
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # The most negative end means "through the first element" for a negative step.
        index[node.axis(axis, data.ndim)] = slice(start, None if step < 0 and end < -(2**31) else end, step)
    return Constant(data[tuple(index)])


def folded(node: Node, out: Output) -> Known:
    """Arithmetic: in NumPy on constants, else a canonical node."""
    if not all(isinstance(i, Constant) for i in node.inputs if i is not None):
        if node.op not in ("Add", "Sub", "Mul", "Div"):
            raise node.error("supported on constants only")
        return arithmetic(node, out)
    arrays = [node.array(i) for i in range(len(node.inputs))]
    arity = 2 if node.op in ("Add", "Sub", "Mul", "Div", "Pow") else 1
    if len(arrays) != arity or len({a.dtype for a in arrays}) > 1 or any(a.dtype == np.bool_ for a in arrays):
        raise node.error("operands of different or unsupported types")
    try:
        if math.prod(np.broadcast_shapes(*(a.shape for a in arrays))) > MAX_ELEMENTS:
            raise node.error("the result is too large")
        with np.errstate(all="ignore"):
            result = np.asarray(FOLDED[node.op](*arrays))
    except (ValueError, ZeroDivisionError):
        raise node.error("operands that do not fit") from None
    return Constant(result.astype(np.float32) if result.dtype.kind == "f" else result.astype(np.int64))
