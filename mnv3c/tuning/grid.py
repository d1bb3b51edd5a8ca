"""Latency tables of blocks: what other inverted residuals in the places of a network's would cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mnv3c import api
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.passes import run_passes

KERNELS = (3, 5)
EXPANSIONS = (3, 4, 6)  # of the search space of MnasNet and MobileNetV3 (section 4.1 of the paper)
# Convolutions around a block: what it reads and writes lies as it does inside a network.
BEFORE, AFTER = "before", "after"
_OUTSIDE = 8  # channels of what comes before and after these
_ACTIVATIONS = {"hswish": "hard_swish", "none": "clip"}


@dataclass(frozen=True)
class Place:
    """Where a network has a block: what comes in, what goes out.

    Attributes:
        input: ``(height, width, channels)``.
        activation: ``hswish`` or ``none`` (a ReLU, which costs nothing).
    """

    input: Shape
    out: int
    stride: int
    activation: str


@dataclass(frozen=True)
class Block:
    """An inverted residual of a grid, and its cost: expansion, depthwise, SE and projection together."""

    place: Place
    kernel: int
    channels: int
    squeeze: bool
    cost: float | None


def blocks(graph: Graph) -> list[Block]:
    """Every kernel and expansion, with and without SE, in each place of a network; without costs."""
    choices = itertools.product(KERNELS, EXPANSIONS, (False, True))
    every = itertools.product(places(graph), choices)
    return [Block(place, k, place.input[2] * factor, squeeze, None) for place, (k, factor, squeeze) in every]


def networks(
    found: list[Block], seed: int = 0, tell: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Graph]:
    """The integer graph of each block, between ``BEFORE`` and ``AFTER``."""
    for i, block in enumerate(found):
        tell(i, len(found))
        # Weights are random and what they compute is of no matter: no images, no search for their rounding.
        yield api.quantize(block_network(block, seed), output_dtype="int8", seed=seed)
    tell(len(found), len(found))


def places(graph: Graph) -> list[Place]:
    """The distinct places of blocks with an expansion and a projection, in the order of the network."""
    fused = run_passes(graph)
    found: dict[Place, None] = {}
    for node in fused.nodes:
        conv = _conv(node)
        if conv is None or not conv.depthwise:
            continue
        expand = fused.producer(node.inputs[0])
        project = _projection(fused, node)
        before = _conv(expand)
        if expand is None or before is None or not before.pointwise or project is None:
            continue
        swish = isinstance(node, q.FusedConv) and isinstance(node.activation, q.QHardSwish)
        place = Place(
            fused.tensor(expand.inputs[0]).shape,
            fused.tensor(project.outputs[0]).shape[2],
            conv.stride[0],
            "hswish" if swish else "none",
        )
        found.setdefault(place)
    return list(found)


def _conv(node: Node | None) -> q.QConv | None:
    if isinstance(node, q.FusedConv):
        return node.conv
    return node if isinstance(node, q.QConv) else None


def _projection(fused: Graph, node: Node) -> Node | None:
    """The 1x1 convolution behind a depthwise one, and behind its gate if there is one."""
    tensor = node.outputs[0]
    for _ in range(2):
        readers = [n for n in fused.consumers(tensor) if n.inputs[0] == tensor]
        gate = next((n for n in readers if isinstance(n, q.QGate | q.QMultiply)), None)
        conv = next((n for n in readers if (c := _conv(n)) is not None and c.pointwise), None)
        if gate is None:
            return conv
        tensor = gate.outputs[0]
    return None


def block_network(block: Block, seed: int = 0) -> Graph:
    """A float network of one inverted residual (the paper's bneck) between two 1x1 convolutions.

    Weights are random.
    """
    p, rng = block.place, np.random.default_rng(seed)
    height, width, channels = p.input
    nodes: list[Node] = []
    tensors = {"input": Tensor("input", (height, width, _OUTSIDE))}

    def add(node: Node, shape: Shape) -> str:
        nodes.append(node)
        tensors[node.output] = Tensor(node.output, shape)
        return node.output

    def conv(name: str, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        h, w, c = tensors[x].shape
        weight = rng.normal(
            0, (2 / (kernel * kernel * c / groups)) ** 0.5, (out, kernel, kernel, c // groups)
        )
        pad = (kernel // 2,) * 4
        bias = np.zeros(out, np.float32)
        shape = (-(-h // stride), -(-w // stride), out)
        made = f.Conv2d(
            name,
            (x,),
            (f"{name}_out",),
            weight.astype(np.float32),
            bias,
            (stride,) * 2,
            pad,
            groups=groups,
        )
        return add(made, shape)

    def act(x: str) -> str:
        kind = _ACTIVATIONS[p.activation]
        bounds = {"low": 0.0} if kind == "clip" else {}
        return add(f.Activation(f"{x}_act", (x,), (f"{x}_act_out",), kind, **bounds), tensors[x].shape)

    begin = conv(BEFORE, "input", channels)
    x = act(conv("expand", begin, block.channels))
    x = act(conv("depthwise", x, block.channels, block.kernel, p.stride, block.channels))
    if block.squeeze:
        inner = max(8, -(-block.channels // 4 // 8) * 8)
        pooled = add(f.GlobalAveragePool("pool", (x,), ("pool_out",)), (1, 1, block.channels))
        gate = conv("squeeze", pooled, inner)
        gate = add(f.Activation("relu", (gate,), ("relu_out",), "clip", low=0.0), (1, 1, inner))
        gate = conv("excite", gate, block.channels)
        gate = add(f.Activation("gate", (gate,), ("gate_out",), "hard_sigmoid"), (1, 1, block.channels))
        x = add(f.Multiply("scale", (x, gate), ("scale_out",)), tensors[x].shape)
    x = conv("project", x, p.out)
    if p.stride == 1 and p.out == channels:
        x = add(f.Add("add", (x, begin), ("add_out",)), (height, width, channels))
    x = conv(AFTER, x, _OUTSIDE)
    return Graph("block", tuple(nodes), tensors, ("input",), (x,))
