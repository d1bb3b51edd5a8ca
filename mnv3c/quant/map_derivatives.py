"""Resize, softmax and average pools on float64 batches, and their derivatives, for ``quant.importance``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node
from mnv3c.ir.positions import positions
from mnv3c.reference import floating


def before_argmax(graph: Graph) -> Graph:
    """The graph up to the logits that an argmax, or an enlargement in front of one, reads at its end.

    A choice has no derivative; the logits say what errors do to it, and at full size they say no more.
    """
    outputs = []
    for name in graph.outputs:
        node = graph.producer(name)
        if isinstance(node, f.ArgMax):
            name = node.inputs[0]
            node = graph.producer(name)
            if isinstance(node, f.Resize):
                name = node.inputs[0]
        outputs.append(name)
    live = set(outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs):
            kept.append(node)
            live.update(node.inputs)
    return graph.replace(nodes=tuple(reversed(kept)), outputs=tuple(outputs))


def _weights(node: f.Resize, size: int, out: int) -> np.ndarray:
    """Interpolation along one axis as a matrix ``[out, size]``."""
    at = positions(size, out, node.coordinates)
    matrix = np.zeros((out, size))
    rows = np.arange(out)
    if node.kind == "nearest":
        matrix[rows, at.nearest(node.rounding)] = 1.0
        return matrix
    below, share = at.fractions()
    np.add.at(matrix, (rows, below), 1.0 - share)
    np.add.at(matrix, (rows, at.above(below)), share)
    return matrix


def _apply(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Both matrices on height and width of ``[N, H, W, C]``."""
    tall = np.moveaxis(np.tensordot(rows, x, axes=(1, 1)), 0, 1)
    return np.moveaxis(np.tensordot(columns, tall, axes=(1, 2)), 0, 2)


def _resize(graph: Graph, node: f.Resize, x: np.ndarray) -> np.ndarray:
    height, width, _ = graph.tensor(node.output).shape
    return _apply(x, _weights(node, x.shape[1], height), _weights(node, x.shape[2], width))


def _resize_back(node: f.Resize, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    rows, columns = (_weights(node, args[0].shape[i], gradient.shape[i]).T for i in (1, 2))
    return [_apply(gradient, rows, columns)]


def _pool(graph: Graph, node: f.Pool, x: np.ndarray) -> np.ndarray:
    return np.stack([floating.evaluate(graph, node, [one]) for one in x])


def _pool_back(node: f.Pool, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    count, height, width, channels = args[0].shape
    top, left, bottom, right = node.pad
    result = np.zeros((count, height + top + bottom, width + left + right, channels))
    rows, columns = gradient.shape[1:3]
    part = gradient / (node.kernel[0] * node.kernel[1])
    for y in range(node.kernel[0]):
        for x in range(node.kernel[1]):
            last = y + (rows - 1) * node.stride[0] + 1, x + (columns - 1) * node.stride[1] + 1
            result[:, y : last[0] : node.stride[0], x : last[1] : node.stride[1]] += part
    return [result[:, top : top + height, left : left + width]]


def _softmax(_: Graph, node: f.Softmax, x: np.ndarray) -> np.ndarray:
    return floating.softmax(node, x)


def _softmax_back(node: f.Softmax, args: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    shape = (*gradient.shape[:-1], node.groups, -1)
    y, part = floating.softmax(node, args[0]).reshape(shape), gradient.reshape(shape)
    return [(y * (part - (y * part).sum(axis=-1, keepdims=True))).reshape(gradient.shape)]


FORWARD: dict[type[Node], Callable[[Graph, Any, np.ndarray], np.ndarray]] = {
    f.Resize: _resize,
    f.Pool: _pool,
    f.Softmax: _softmax,
}
BACKWARD: dict[type[Node], Callable[[Any, list[np.ndarray], np.ndarray], list[np.ndarray]]] = {
    f.Resize: _resize_back,
    f.Pool: _pool_back,
    f.Softmax: _softmax_back,
}


def supported(node: Node) -> bool:
    """Whether ``BACKWARD`` has a derivative: not of a maximum, nor of an average that differs at borders."""
    if isinstance(node, f.Pool):
        return node.kind == "average" and (node.count_include_pad or not any(node.pad))
    return isinstance(node, f.Resize | f.Softmax)
