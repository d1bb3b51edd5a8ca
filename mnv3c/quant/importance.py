"""What an error of each tensor does to the network's outputs, to first order.

Backward differentiation of the float network: for a random direction ``v`` among the outputs with
``E[v v'] = I``, the squares of the gradient of ``v' y`` are, on average, the squared change of all outputs
for a unit change at one place (Hutchinson 1990). Errors of rounding are small and as good as independent,
so their effects add up: an error of mean square ``e[c]`` changes the outputs by ``sum(importance * e)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node
from mnv3c.quant import batched
from mnv3c.quant import map_derivatives as maps
from mnv3c.reference import floating

_IMAGES = 16
_PROBES = 2
_ELEMENTS = 1 << 26  # of all tensors of all images that are looked at
_AT_ONCE = 1 << 22  # of all tensors of the images that are computed together
_LEAST_POWER = 1e-30


def importance(graph: Graph, batch: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Relative squared error of the outputs for a squared error of one in a whole channel of a tensor.

    Args:
        batch: network inputs, float32 ``(N, H, W, C)``; some of them are used, evenly spread.

    Returns:
        Tensor name to float64 ``[C]``: multiplied by the mean square of the channel's error, and summed
        over channels, it is noise over signal at the outputs. Empty if a node has no derivative here.
    """
    graph = maps.before_argmax(graph)
    if not all(maps.supported(node) or type(node) in _RULES for node in graph.nodes):
        return {}
    elements = sum(graph.tensor(n.output).elements for n in graph.nodes)
    count = int(min(_IMAGES, len(batch), max(2, _ELEMENTS // elements)))
    chosen = batch[np.linspace(0, len(batch) - 1, count).astype(int)]
    total: dict[str, np.ndarray] = {}
    power = 0.0
    step = max(1, _AT_ONCE // elements)
    for start in range(0, count, step):
        values = {graph.inputs[0]: chosen[start : start + step].astype(np.float64)}
        for node in graph.nodes:
            values[node.output] = _forward(graph, node, [values[i] for i in node.inputs])
        outputs = [values[name] for name in graph.outputs]
        power += sum(float(np.square(_centred(y)).sum()) for y in outputs)
        for _ in range(_PROBES):
            probes = {
                name: _centred(rng.standard_normal(y.shape))
                for name, y in zip(graph.outputs, outputs, strict=True)
            }
            for name, gradient in _backward(graph, values, probes).items():
                square = np.square(gradient).sum(axis=(0, 1, 2)) / _PROBES
                total[name] = total.get(name, 0.0) + square
    return {name: value / max(power, _LEAST_POWER) for name, value in total.items()}


def _centred(y: np.ndarray) -> np.ndarray:
    """Less the mean of each pixel's channels, which changes no order of classes; one channel stays."""
    return y - y.mean(axis=3, keepdims=True) if y.shape[3] > 1 else y


def _forward(graph: Graph, node: Node, args: list[np.ndarray]) -> np.ndarray:
    """One node in float64, so that what is chosen by the results is the same on every CPU."""
    if maps.supported(node):
        return maps.FORWARD[type(node)](graph, node, args[0])
    if isinstance(node, f.Conv2d):
        return batched.convolve(node, args[0], wide=True) + node.bias.astype(np.float64)
    if isinstance(node, f.Activation):
        return floating.activation(node, args[0]).astype(np.float64)
    if isinstance(node, f.GlobalAveragePool):
        return args[0].mean(axis=(1, 2), keepdims=True)
    if isinstance(node, f.Pool):
        shares = _shares(node, args[0])
        parts = (np.nan_to_num(part) for _, part in _taps(node, args[0]))
        return np.sum([share * part for share, part in zip(shares, parts, strict=True)], axis=0)
    if isinstance(node, f.Constant):
        return node.values[None].astype(np.float64)
    if isinstance(node, f.Add):
        return args[0] + args[1]
    return args[0] * args[1]


def _backward(
    graph: Graph, values: dict[str, np.ndarray], probes: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    gradients = dict(probes)
    for node in reversed(graph.nodes):
        gradient = gradients.get(node.output)
        if gradient is None:
            continue
        args = [values[i] for i in node.inputs]
        rule = maps.BACKWARD[type(node)] if maps.supported(node) else _RULES[type(node)]
        for name, part in zip(node.inputs, rule(node, args, gradient), strict=True):
            gradients[name] = gradients[name] + part if name in gradients else part
    return gradients


def _conv(node: f.Conv2d, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    count, height, width, channels = args[0].shape
    top, left, bottom, right = node.pad
    result = np.zeros((count, height + top + bottom, width + left + right, channels))
    out, kh, kw, per_group = node.weight.shape
    weight = node.weight.astype(np.float64).reshape(node.groups, out // node.groups, kh, kw, per_group)
    rows, columns = gradient.shape[1:3]
    split = gradient.reshape(count * rows * columns, node.groups, -1).transpose(1, 0, 2)
    for y in range(kh):
        for x in range(kw):
            if batched.is_depthwise(node):
                part = gradient * weight[:, 0, y, x, 0]
            else:
                part = (split @ weight[:, :, y, x]).transpose(1, 0, 2).reshape(count, rows, columns, channels)
            first = y * node.dilation[0], x * node.dilation[1]
            result[
                :,
                first[0] : first[0] + rows * node.stride[0] : node.stride[0],
                first[1] : first[1] + columns * node.stride[1] : node.stride[1],
            ] += part
    return [result[:, top : top + height, left : left + width]]


def _activation(node: f.Activation, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    x = args[0]
    if node.kind == "clip":
        return [gradient * ((x > node.low) & (x < node.high))]
    if node.kind == "sigmoid":
        y = 1.0 / (1.0 + np.exp(-x))
        return [gradient * y * (1.0 - y)]
    gate = node.slope * x + node.offset
    linear = (gate > 0) & (gate < 1)
    if node.kind == "hard_sigmoid":
        return [gradient * linear * node.slope]
    return [gradient * np.where(linear, gate + node.slope * x, gate >= 1)]


def _add(node: f.Add, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    return [_summed(gradient, x) for x in args]


def _multiply(node: f.Multiply, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    return [_summed(gradient * args[1], args[0]), _summed(gradient * args[0], args[1])]


def _summed(gradient: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What reaches an operand that was broadcast: the sum over all places where it is read."""
    axes = tuple(a for a in (1, 2, 3) if x.shape[a] != gradient.shape[a])
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient


def _mean(node: f.GlobalAveragePool, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    x = args[0]
    return [np.broadcast_to(gradient / (x.shape[1] * x.shape[2]), x.shape)]


def _taps(node: f.Pool, x: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """What each tap of the windows reads, NaN outside, and where in the padded input that is."""
    top, left, bottom, right = node.pad
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=np.nan)
    rows, columns = (
        (padded.shape[1 + axis] - node.kernel[axis]) // node.stride[axis] * node.stride[axis] + 1
        for axis in (0, 1)
    )
    for y in range(node.kernel[0]):
        for x_tap in range(node.kernel[1]):
            place = (
                slice(y, y + rows, node.stride[0]),
                slice(x_tap, x_tap + columns, node.stride[1]),
            )
            yield place, padded[:, place[0], place[1]]


def _shares(node: f.Pool, x: np.ndarray) -> list[np.ndarray]:
    """The weight of each tap in its window's result; a maximum is its first largest tap."""
    parts = [part for _, part in _taps(node, x)]
    inside = [~np.isnan(part) for part in parts]
    if node.kind == "average":
        count = len(parts) if node.count_include_pad else sum(inside)
        return [here / count for here in inside]
    first = np.argmax(
        [np.where(here, part, -np.inf) for here, part in zip(inside, parts, strict=True)], axis=0
    )
    return [(first == tap).astype(np.float64) for tap in range(len(parts))]


def _pool(node: f.Pool, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    top, left, bottom, right = node.pad
    count, height, width, channels = args[0].shape
    result = np.zeros((count, height + top + bottom, width + left + right, channels))
    for share, (place, _) in zip(_shares(node, args[0]), _taps(node, args[0]), strict=True):
        result[:, place[0], place[1]] += share * gradient
    return [result[:, top : top + height, left : left + width]]


_RULES: dict[type[Node], Callable[[Any, list[np.ndarray], np.ndarray], list[np.ndarray]]] = {
    f.Conv2d: _conv,
    f.Activation: _activation,
    f.Add: _add,
    f.Multiply: _multiply,
    f.Constant: lambda node, args, gradient: [],
    f.GlobalAveragePool: _mean,
    f.Pool: _pool,
}
