"""Small float graphs for the quantiser's tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.ir.verify import verify
from mnv3c.quant import batched


def build(shape: Shape, nodes: Sequence[Node], outputs: Sequence[str] | None = None) -> Graph:
    """A float graph with the input ``x``; shapes are found by running it."""
    probe = Graph("net", tuple(nodes), {"x": Tensor("x", shape)}, ("x",), ())
    values = {"x": np.zeros((1, *shape), np.float32)}
    tensors = {"x": Tensor("x", shape)}
    for node in nodes:
        probe = Graph("net", tuple(nodes), tensors, ("x",), ())
        if isinstance(node, f.Pool | f.Softmax):
            values[node.output] = _alone(probe, node, values[node.inputs[0]])
        else:
            values[node.output] = batched.float_node(probe, node, [values[i] for i in node.inputs])
        tensors[node.output] = Tensor(node.output, values[node.output].shape[1:])
    return verify(Graph("net", tuple(nodes), tensors, ("x",), tuple(outputs or (nodes[-1].output,))))


def _alone(graph: Graph, node: f.Pool | f.Softmax, x: np.ndarray) -> np.ndarray:
    return batched.float_node(graph, node, [x])


def conv(
    rng: np.random.Generator,
    name: str,
    source: str,
    cin: int,
    cout: int,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    gain: float = 1.0,
) -> f.Conv2d:
    """A convolution with He-like random weights and small biases, TF-SAME-like padding at stride 2."""
    per_group = 1 if depthwise else cin
    fan = per_group * kernel * kernel
    weight = rng.normal(0, gain * np.sqrt(2 / fan), (cout, kernel, kernel, per_group))
    half = (kernel - 1) // 2
    pad = (
        (half, half, half, half)
        if stride == 1
        else (half - 1 if half else 0, half - 1 if half else 0, half, half)
    )
    return f.Conv2d(
        name,
        (source,),
        (name,),
        weight.astype(np.float32),
        rng.normal(0, 0.1, cout).astype(np.float32),
        (stride, stride),
        pad,
        groups=cin if depthwise else 1,
    )


def relu(name: str, source: str, high: float = float("inf")) -> f.Activation:
    return f.Activation(name, (source,), (name,), "clip", low=0.0, high=high)


def swish(name: str, source: str, slope: float = 1 / 6) -> f.Activation:
    return f.Activation(name, (source,), (name,), "hard_swish", slope=slope)


def gate(name: str, source: str, slope: float = 1 / 6) -> f.Activation:
    return f.Activation(name, (source,), (name,), "hard_sigmoid", slope=slope)


def block_network(seed: int) -> Graph:
    """First convolution, an inverted residual block with SE and h-swish, a ReLU block, a head."""
    rng = np.random.default_rng(seed)
    return build(
        (13, 11, 3),
        [
            conv(rng, "stem", "x", 3, 8, 3, 2),
            swish("stem_act", "stem"),
            conv(rng, "expand", "stem_act", 8, 22),
            swish("expand_act", "expand"),
            conv(rng, "deep", "expand_act", 22, 22, 5, depthwise=True),
            swish("deep_act", "deep"),
            f.GlobalAveragePool("pool", ("deep_act",), ("pool",)),
            conv(rng, "squeeze", "pool", 22, 6),
            relu("squeeze_act", "squeeze"),
            conv(rng, "excite", "squeeze_act", 6, 22),
            gate("gate", "excite"),
            f.Multiply("gated", ("deep_act", "gate"), ("gated",)),
            conv(rng, "project", "gated", 22, 8),
            f.Add("sum", ("project", "stem_act"), ("sum",)),
            conv(rng, "expand2", "sum", 8, 17),
            relu("expand2_act", "expand2", 6.0),
            conv(rng, "deep2", "expand2_act", 17, 17, 3, 2, depthwise=True),
            relu("deep2_act", "deep2"),
            conv(rng, "project2", "deep2_act", 17, 9),
            conv(rng, "last", "project2", 9, 30),
            swish("last_act", "last"),
            f.GlobalAveragePool("pool2", ("last_act",), ("pool2",)),
            conv(rng, "head", "pool2", 30, 20),
            swish("head_act", "head"),
            conv(rng, "logits", "head_act", 20, 10),
        ],
    )


def inputs(graph: Graph, count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, graph.tensor("x").shape).astype(np.float32) for _ in range(count)]
