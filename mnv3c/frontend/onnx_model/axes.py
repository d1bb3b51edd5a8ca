"""Reshapes, transposes, reductions, matrix products and softmax in canonical form."""

from __future__ import annotations

import math

import numpy as np

from mnv3c.frontend.onnx_model.graph import Constant, Known, Node, Output, Shape, Value


def _reshaped(node: Node, out: Output, shape: Shape) -> Known:
    known = node.input(0)
    if math.prod(shape) != math.prod(known.shape) or any(d < 1 for d in shape):
        raise node.error(f"cannot turn {list(known.shape)} into {list(shape)}")
    if isinstance(known, Constant):
        return Constant(known.array.reshape(shape))
    x = node.value()
    if x.shape == shape:
        return x
    return out.emit(node, "Reshape", [x.name, out.constant(np.asarray(shape, np.int64))], shape)


def reshape(node: Node, out: Output) -> Known:
    """Reshape to a constant shape with 0 (copy) and -1 (the rest)."""
    old = node.input(0).shape
    wanted = node.integers_of(1) if len(node.inputs) > 1 else node.integers("shape", [])
    copy = not node.integer("allowzero", 0)
    if wanted.count(-1) > 1 or any(d < -1 for d in wanted) or (0 in wanted and not copy):
        raise node.error(f"shape {wanted}")
    if any(d == 0 and i >= len(old) for i, d in enumerate(wanted)):
        raise node.error(f"shape {wanted} copies a dimension that {list(old)} does not have")
    shape = [old[i] if d == 0 else d for i, d in enumerate(wanted)]
    rest = math.prod(d for d in shape if d != -1)
    return _reshaped(node, out, tuple(math.prod(old) // max(rest, 1) if d == -1 else d for d in shape))


def flatten(node: Node, out: Output) -> Known:
    shape = node.input(0).shape
    axis = node.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise node.error(f"axis {axis} of a tensor with {len(shape)} dimensions")
    axis = axis + len(shape) if axis < 0 else axis
    return _reshaped(node, out, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def squeeze(node: Node, out: Output) -> Known:
    shape = node.input(0).shape
    axes = _axes(node, len(shape))
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d == 1]
    if any(shape[a] != 1 for a in axes):
        raise node.error(f"axes {axes} of {list(shape)} are not all 1")
    return _reshaped(node, out, tuple(d for i, d in enumerate(shape) if i not in axes))


def unsqueeze(node: Node, out: Output) -> Known:
    shape = node.input(0).shape
    given = node.integers_of(1) if node.opset >= 13 else node.integers("axes", [])
    rank = len(shape) + len(given)
    axes = {node.axis(a, rank) for a in given}
    if len(axes) != len(given) or rank > 8:
        raise node.error(f"axes {given}")
    rest = iter(shape)
    return _reshaped(node, out, tuple(1 if i in axes else next(rest) for i in range(rank)))


def transpose(node: Node, out: Output) -> Known:
    known = node.input(0)
    rank = len(known.shape)
    order = node.integers("perm", list(range(rank))[::-1])
    if sorted(order) != list(range(rank)):
        raise node.error(f"perm {order} of a tensor with {rank} dimensions")
    if isinstance(known, Constant):
        return Constant(known.array.transpose(order))
    x = node.value()
    return out.emit(node, "Transpose", [x.name], [x.shape[i] for i in order], perm=order)


def reduce_mean(node: Node, out: Output) -> Known:
    x = node.value()
    axes = _axes(node, len(x.shape), since=18)
    if not axes:
        if node.integer("noop_with_empty_axes", 0):
            return x
        axes = list(range(len(x.shape)))
    keep = node.integer("keepdims", 1)
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    return out.emit(node, "ReduceMean", [x.name], shape, axes=sorted(axes), keepdims=int(bool(keep)))


def _axes(node: Node, rank: int, since: int = 13) -> list[int] | None:
    """Axes from the attribute, or since an opset from the second input; ``None`` if not given."""
    if node.opset >= since:
        given = node.integers_of(1) if node.optional(1) is not None else None
    else:
        given = node.integers("axes", []) if node.has("axes") else None
    if given is None:
        return None
    axes = [node.axis(a, rank) for a in given]
    if len(set(axes)) != len(axes):
        raise node.error(f"axes {given}")
    return axes


def matmul(node: Node, out: Output) -> Known:
    """A vector times a constant matrix."""
    x, matrix = node.value(0), node.numbers(1)
    return _product(node, out, x, matrix)


def gemm(node: Node, out: Output) -> Known:
    """alpha · A · B + beta · C with constant B and C."""
    x, matrix = node.value(0), node.numbers(1)
    if matrix.ndim != 2 or len(x.shape) != 2:
        raise node.error(f"operands of shapes {list(x.shape)} and {list(matrix.shape)}")
    if node.integer("transA", 0):
        raise node.error("transA is not supported")
    matrix = matrix.T if node.integer("transB", 0) else matrix
    result = _product(node, out, x, matrix * np.float32(node.real("alpha", 1.0)))
    if node.optional(2) is None:
        return result
    bias = node.numbers(2) * np.float32(node.real("beta", 1.0))
    try:
        bias = np.broadcast_to(bias, result.shape)
    except ValueError:
        raise node.error(f"C of shape {list(bias.shape)} for {list(result.shape)}") from None
    return out.emit(node, "Add", [result.name, out.constant(bias)], result.shape)


def _product(node: Node, out: Output, x: Value, matrix: np.ndarray) -> Value:
    if matrix.ndim != 2 or matrix.size == 0 or not x.shape or x.shape[-1] != matrix.shape[0]:
        raise node.error(f"operands of shapes {list(x.shape)} and {list(matrix.shape)}")
    if math.prod(x.shape) != x.shape[-1]:
        raise node.error(f"{list(x.shape)} is not a vector; only fully connected layers are supported")
    return out.emit(node, "MatMul", [x.name, out.constant(matrix)], (*x.shape[:-1], matrix.shape[1]))


def softmax(node: Node, out: Output) -> Known:
    """Softmax; before opset 13 it runs over all axes from ``axis`` on."""
    x = node.value()
    axis = node.axis(node.integer("axis", -1 if node.opset >= 13 else 1), len(x.shape))
    if node.opset < 13:
        wide = [i for i in range(axis, len(x.shape)) if x.shape[i] > 1]
        if len(wide) > 1:
            raise node.error(f"softmax over axes {wide} of {list(x.shape)} is not supported")
        axis = wide[0] if wide else axis
    return out.emit(node, "Softmax", [x.name], x.shape, axis=axis)
