"""Executor of the float graph in float32, for calibration and for error figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node
from mnv3c.reference import spatial
from mnv3c.reference.windows import windows

Values = dict[str, np.ndarray]
_ZERO = np.zeros(1, np.float32)


def run(graph: Graph, inputs: Mapping[str, np.ndarray], *, keep: bool = False) -> Values:
    """Execute ``graph`` on float32 ``(H, W, C)`` inputs; with ``keep``, return every tensor."""
    values: Values = {}
    for name in graph.inputs:
        want, got = graph.tensor(name), inputs.get(name)
        if got is None or got.shape != want.shape:
            raise ValueError(f"input {name} must be float32 {want.shape}")
        values[name] = got.astype(np.float32)
    for node in graph.nodes:
        args = [values[i] for i in node.inputs]
        values[node.output] = evaluate(graph, node, args).astype(np.float32)
    return values if keep else {name: values[name] for name in graph.outputs}


def evaluate(graph: Graph, node: Node, args: list[np.ndarray]) -> np.ndarray:
    """The output of one node; raises ``KeyError`` for one that is not of the float graph."""
    if type(node) in spatial.FLOAT_RULES:
        return spatial.FLOAT_RULES[type(node)](graph, node, *args)
    return _RULES[type(node)](node, *args)


def _conv(node: f.Conv2d, x: np.ndarray) -> np.ndarray:
    out, kh, kw, per_group = node.weight.shape
    if node.groups > 1 and per_group == 1 and out == node.groups:
        return _depthwise(node, x)
    view = windows(x, (kh, kw), node.stride, node.pad, node.dilation, _ZERO)
    height, width = view.shape[:2]
    step = out // node.groups
    parts = [
        view[..., g * per_group : (g + 1) * per_group].reshape(height * width, -1)
        @ node.weight[g * step : (g + 1) * step].reshape(step, -1).T
        for g in range(node.groups)
    ]
    return np.concatenate(parts, axis=1).reshape(height, width, out) + node.bias


def _depthwise(node: f.Conv2d, x: np.ndarray) -> np.ndarray:
    # A sum over taps of whole maps: no [H, W, kernel, C] array is ever built.
    view = windows(x, node.weight.shape[1:3], node.stride, node.pad, node.dilation, _ZERO)
    acc = np.zeros((*view.shape[:2], x.shape[2]), np.float32)
    for y in range(view.shape[2]):
        for x_tap in range(view.shape[3]):
            acc += view[:, :, y, x_tap] * node.weight[:, y, x_tap, 0]
    return acc + node.bias


def activation(node: f.Activation, x: np.ndarray) -> np.ndarray:
    """Apply an activation to an array of any shape."""
    if node.kind == "clip":
        return np.clip(x, node.low, node.high)
    if node.kind == "sigmoid":
        return 1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0)))
    gate = np.clip(node.slope * x + node.offset, 0.0, 1.0)
    return x * gate if node.kind == "hard_swish" else gate


def _pool(node: f.Pool, x: np.ndarray) -> np.ndarray:
    if node.kind == "max":
        low = np.asarray([-np.inf], np.float32)
        return windows(x, node.kernel, node.stride, node.pad, (1, 1), low).max(axis=(2, 3))
    total = windows(x, node.kernel, node.stride, node.pad, (1, 1), _ZERO).sum(axis=(2, 3))
    if node.count_include_pad:
        return total / (node.kernel[0] * node.kernel[1])
    ones = np.ones((*x.shape[:2], 1), np.float32)
    return total / windows(ones, node.kernel, node.stride, node.pad, (1, 1), _ZERO).sum(axis=(2, 3))


def softmax(node: f.Softmax, x: np.ndarray) -> np.ndarray:
    """Softmax of an array of any shape whose last axis is the channels."""
    runs = x.reshape(*x.shape[:-1], node.groups, -1)
    e = np.exp(runs - runs.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True)).reshape(x.shape)


_RULES: dict[type[Node], Callable[..., np.ndarray]] = {
    f.Conv2d: _conv,
    f.Activation: activation,
    f.Add: lambda _, a, b: a + b,
    f.Multiply: lambda _, a, b: a * b,
    f.Constant: lambda node: node.values,
    f.GlobalAveragePool: lambda _, x: x.mean(axis=(0, 1), keepdims=True),
    f.Pool: _pool,
    f.Softmax: softmax,
}
SUPPORTED: tuple[type[Node], ...] = (*_RULES, *spatial.FLOAT_RULES)
