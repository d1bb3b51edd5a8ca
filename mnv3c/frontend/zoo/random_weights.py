"""Weights for a network that has none: drawn from a seed, scaled so that activations keep their variance.

Each convolution is normalised by what really comes out of it for a few synthetic images, as a batch norm
would in training: without it the means of ReLU outputs add up, and the logits hardly depend on the image.
Every draw is a ratio of integers and every statistic is computed in float64 and rounded to a grid, so the
weights do not depend on the machine's BLAS.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mnv3c.frontend.zoo.layers import LayerShape, LayerWeights, Weights
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node
from mnv3c.reference.floating import evaluate
from mnv3c.reference.windows import windows

IMAGES = 6
SIZE = 128
# Standard deviation in front of an SE gate's hard sigmoid. Wide gates of random weights multiply whatever
# an image has more of than the synthetic ones, block after block.
GATE_SPREAD = 0.25
_GRID = 2.0**-12


def draw(shapes: list[LayerShape], seed: int) -> Weights:
    """Uniform weights of unit gain a fan-in, zero bias."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for layer in shapes:
        fan_in = math.prod(layer.weight[1:])
        uniform = rng.integers(-(2**15), 2**15 + 1, layer.weight) / 2**15
        scaled = (uniform * math.sqrt(3.0 / fan_in)).astype(np.float32)
        weights[layer.name] = LayerWeights(scaled, np.zeros(layer.out, np.float32))
    return weights


def normalize(graph: Graph, seed: int) -> Graph:
    """Scale and shift every convolution to zero mean and unit variance on synthetic images.

    Statistics are per channel where a map has pixels, of the whole vector behind the pool.
    """
    batch = _images(seed)
    values: dict[str, list[np.ndarray]] = {graph.inputs[0]: batch}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, f.Conv2d):
            raw = [_conv(node, x) for x in values[node.inputs[0]]]
            spread = GATE_SPREAD if _feeds_gate(graph, node) else 1.0
            gain, bias = (v * spread for v in _statistics(np.stack(raw)))
            weight = (node.weight.astype(np.float64) * gain[:, None, None, None]).astype(np.float32)
            nodes.append(dataclasses.replace(node, weight=weight, bias=bias.astype(np.float32)))
            values[node.output] = [r * gain + bias for r in raw]
            continue
        nodes.append(node)
        columns = zip(*(values[i] for i in node.inputs), strict=True)
        values[node.output] = [_evaluate(graph, node, *column) for column in columns]
    return graph.replace(nodes=tuple(nodes))


def transfer(source: Graph, target: Graph) -> Graph:
    """``target`` with the parameters of ``source``, which has the same convolutions in the same order."""
    convolutions = (n for n in source.nodes if isinstance(n, f.Conv2d))

    def take(node: Node) -> Node:
        if not isinstance(node, f.Conv2d):
            return node
        own = next(convolutions)
        return dataclasses.replace(node, weight=own.weight, bias=own.bias)

    return target.map_nodes(take)


def _feeds_gate(graph: Graph, node: f.Conv2d) -> bool:
    user = graph.sole_consumer(node.output, f.Activation)
    return user is not None and user.kind in ("hard_sigmoid", "sigmoid")


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias a channel that normalise ``[images, H, W, C]``.

    A channel that hardly varies on these few images is not blown up: no gain is above the layer's
    average. Behind the pool there are too few samples for any statistic of a channel.
    """
    axes = (0, 1, 2) if x.shape[1:3] != (1, 1) else (0, 1, 2, 3)
    deviation = np.maximum(x.std(axis=axes), x.std(axis=axes).mean())
    gain = _to_grid(1.0 / np.maximum(deviation, 1e-6)) * np.ones(x.shape[3])
    return gain, _to_grid(-x.mean(axis=axes) * gain) * np.ones(x.shape[3])


def _to_grid(x: np.ndarray) -> np.ndarray:
    return np.round(x / _GRID) * _GRID


def _images(seed: int) -> list[np.ndarray]:
    """Colour fields with detail at every scale, of different contrast and brightness, in [-1, 1]."""
    rng = np.random.default_rng([seed, 1])
    images = []
    for _ in range(IMAGES):
        x = rng.integers(-64, 65, (1, 1, 3)) / 128.0 + np.zeros((SIZE, SIZE, 3))
        for cells in (2, 4, 8, 16, 32):
            x += _smooth(rng.integers(-128, 129, (cells + 1, cells + 1, 3)) / 128.0) * rng.integers(1, 9) / 8
        images.append(np.clip(x, -1.0, 1.0))
    return images


def _smooth(corners: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of ``[n + 1, n + 1, 3]`` to ``[SIZE, SIZE, 3]``."""
    t = np.arange(SIZE) * (len(corners) - 1) / SIZE
    i, u = t.astype(int), (t % 1.0)[:, None]
    rows = corners[i] * (1 - u[..., None]) + corners[i + 1] * u[..., None]
    return np.asarray(rows[:, i] * (1 - u) + rows[:, i + 1] * u)


def _conv(node: f.Conv2d, x: np.ndarray) -> np.ndarray:
    """The convolution without its bias, in float64; depthwise or of one group."""
    weight = node.weight.astype(np.float64)
    view = windows(x, weight.shape[1:3], node.stride, node.pad, node.dilation, np.zeros(1))
    if node.groups == 1:
        flat = view.reshape(*view.shape[:2], -1) @ weight.reshape(len(weight), -1).T
        return np.asarray(flat)
    acc = np.zeros((*view.shape[:2], x.shape[2]))
    for i in range(view.shape[2]):
        for j in range(view.shape[3]):
            acc += view[:, :, i, j] * weight[:, i, j, 0]
    return acc


def _evaluate(graph: Graph, node: Node, *args: np.ndarray) -> np.ndarray:
    # The executor's rules keep the float64 of what they are given.
    return np.asarray(evaluate(graph, node, list(args)))
