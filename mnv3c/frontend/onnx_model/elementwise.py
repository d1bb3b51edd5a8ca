"""Activations and arithmetic in canonical form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mnv3c.frontend.onnx_model.graph import Constant, Known, Node, Output, Value


def unary(node: Node, out: Output) -> Known:
    """Relu, Sigmoid, HardSwish: nothing to configure."""
    x = node.value()
    return out.emit(node, node.op, [x.name], x.shape)


def hard_sigmoid(node: Node, out: Output) -> Known:
    """HardSigmoid; slope 0.2 and offset 0.5 unless the node says otherwise."""
    x = node.value()
    alpha, beta = node.real("alpha", 0.2), node.real("beta", 0.5)
    if alpha <= 0:
        raise node.error(f"alpha is {alpha}")
    return out.emit(node, "HardSigmoid", [x.name], x.shape, alpha=alpha, beta=beta)


def clip(node: Node, out: Output) -> Known:
    """Clip with constant bounds, from attributes (opset < 11) or inputs."""
    if node.opset < 11:
        return _bounded(node, out, node.value(), _attribute(node, "min"), _attribute(node, "max"))
    return _bounded(node, out, node.value(), _bound(node, 1, -math.inf), _bound(node, 2, math.inf))


def extremum(node: Node, out: Output) -> Known:
    """Min or Max of a tensor and one constant."""
    if len(node.inputs) == 1:
        return node.value()
    if len(node.inputs) != 2 or not any(isinstance(i, Constant) for i in node.inputs):
        raise node.error("supported with one tensor and one constant number")
    index = 1 if isinstance(node.input(1), Constant) else 0
    bound = _bound(node, index, 0.0)
    low, high = (bound, math.inf) if node.op == "Max" else (-math.inf, bound)
    return _bounded(node, out, node.value(1 - index), low, high)


def _attribute(node: Node, name: str) -> float:
    default = -math.inf if name == "min" else math.inf
    return node.real(name, 0.0) if node.has(name) else default


def _bound(node: Node, index: int, default: float) -> float:
    if node.optional(index) is None:
        return default
    values = node.array(index)
    if values.size != 1 or values.dtype == np.bool_ or bool(np.isnan(values.astype(np.float64)).any()):
        raise node.error(f"input {index} must be one constant number")
    return float(values.reshape(()))


def _bounded(node: Node, out: Output, x: Value, low: float, high: float) -> Known:
    # The largest float32 stands for "no bound" in many exporters.
    low, high = (math.copysign(math.inf, b) if abs(b) >= 3.4e38 else b for b in (low, high))
    if low > high or low == math.inf or high == -math.inf:
        raise node.error(f"bounds {low} and {high}")
    if (low, high) == (-math.inf, math.inf):
        return x
    if (low, high) == (0.0, math.inf):
        return out.emit(node, "Relu", [x.name], x.shape)
    bounds = [out.constant(np.asarray(b, np.float32)) if math.isfinite(b) else "" for b in (low, high)]
    return out.emit(node, "Clip", [x.name, *bounds], x.shape)


def arithmetic(node: Node, out: Output) -> Known:
    """Add, Sub, Mul, Div (and Sum of two) with broadcasting."""
    if len(node.inputs) != 2:
        raise node.error("supported with two operands")
    operator = "Add" if node.op == "Sum" else node.op
    shapes = [node.input(i).shape for i in range(2)]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise node.error(f"operands of shapes {list(shapes[0])} and {list(shapes[1])}") from None
    if len(shape) > 4 or (len(shape) in (2, 4) and shape[0] > 1):
        raise node.error(
            f"operands of shapes {list(shapes[0])} and {list(shapes[1])}: the result is no single image"
        )
    names = [_operand(node, out, i) for i in range(2)]
    if operator == "Div" and isinstance(node.input(1), Constant) and not bool(node.array(1).all()):
        raise node.error("division by zero")
    return out.emit(node, operator, names, shape)


def _operand(node: Node, out: Output, index: int) -> str:
    known = node.input(index)
    return node.value(index).name if isinstance(known, Value) else out.constant(node.numbers(index))


FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: a // b if a.dtype == np.int64 else a / b,
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Reciprocal": lambda a: 1.0 / a,
    "Pow": lambda a, b: np.power(a, b.astype(a.dtype)),
}
"""What is computed in NumPy where every operand is constant."""
