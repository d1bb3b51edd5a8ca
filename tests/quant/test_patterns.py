"""Every pattern the quantiser lowers, run by the integer reference, against the float network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from mnv3c.quant import quantize
from mnv3c.quant.state import signal_to_noise
from mnv3c.reference import floating, integer

from .networks import build, conv, gate, inputs, relu, swish

SHAPE = (9, 8, 5)
Pattern = Callable[[np.random.Generator], Sequence[Node]]


def squeeze_excite(rng: np.random.Generator, gated: list[Node]) -> list[Node]:
    return [
        relu("data", "x"),
        f.GlobalAveragePool("pool", ("data",), ("pool",)),
        conv(rng, "squeeze", "pool", 5, 4),
        relu("squeeze_act", "squeeze"),
        conv(rng, "excite", "squeeze_act", 4, 5),
        *gated,
        f.Multiply("gated", ("data", "gate"), ("gated",)),
    ]


PATTERNS: dict[str, Pattern] = {
    "conv": lambda r: [conv(r, "a", "x", 5, 7, 3)],
    "conv, relu": lambda r: [conv(r, "a", "x", 5, 7, 3, 2), relu("b", "a")],
    "conv, relu6": lambda r: [conv(r, "a", "x", 5, 7, gain=4), relu("b", "a", 6.0)],
    "conv, clip around zero": lambda r: [
        conv(r, "a", "x", 5, 7, gain=4),
        f.Activation("b", ("a",), ("b",), "clip", low=-1.0, high=2.0),
    ],
    "conv, h-swish": lambda r: [conv(r, "a", "x", 5, 7, gain=3), swish("b", "a")],
    "conv, wide h-swish": lambda r: [conv(r, "a", "x", 5, 7, gain=40), swish("b", "a")],
    "conv, h-swish of another slope": lambda r: [conv(r, "a", "x", 5, 7, gain=3), swish("b", "a", 0.2)],
    "conv, sigmoid": lambda r: [
        conv(r, "a", "x", 5, 7, gain=2),
        f.Activation("b", ("a",), ("b",), "sigmoid"),
    ],
    "h-swish alone": lambda r: [swish("b", "x")],
    "depthwise": lambda r: [conv(r, "a", "x", 5, 5, 5, 2, depthwise=True)],
    "expand, depthwise, project": lambda r: [
        conv(r, "a", "x", 5, 12),
        swish("b", "a"),
        conv(r, "c", "b", 12, 12, 3, depthwise=True),
        relu("d", "c"),
        conv(r, "e", "d", 12, 6),
    ],
    "grouped": lambda r: [
        conv(r, "a", "x", 5, 6),
        f.Conv2d(
            "b",
            ("a",),
            ("b",),
            r.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32),
            np.zeros(4, np.float32),
            groups=2,
        ),
    ],
    "dilated": lambda r: [
        f.Conv2d(
            "a",
            ("x",),
            ("a",),
            r.normal(0, 0.3, (4, 3, 3, 5)).astype(np.float32),
            np.zeros(4, np.float32),
            pad=(2, 2, 2, 2),
            dilation=(2, 2),
        )
    ],
    "squeeze and excite": lambda r: squeeze_excite(r, [gate("gate", "excite")]),
    "Paddle's hard sigmoid": lambda r: squeeze_excite(r, [gate("gate", "excite", 0.2)]),
    "sigmoid gate": lambda r: squeeze_excite(r, [f.Activation("gate", ("excite",), ("gate",), "sigmoid")]),
    "residual": lambda r: [
        conv(r, "a", "x", 5, 6),
        relu("b", "a"),
        conv(r, "c", "b", 6, 6),
        f.Add("d", ("c", "b"), ("d",)),
    ],
    "residual, operands swapped, relu": lambda r: [
        conv(r, "a", "x", 5, 6),
        conv(r, "c", "a", 6, 6),
        f.Add("d", ("a", "c"), ("d",)),
        relu("e", "d"),
    ],
    "residual chain into a convolution": lambda r: [
        conv(r, "a", "x", 5, 6),
        conv(r, "b", "a", 6, 6),
        f.Add("c", ("b", "a"), ("c",)),
        conv(r, "d", "c", 6, 6),
        f.Add("e", ("d", "c"), ("e",)),
        conv(r, "g", "e", 6, 8),
    ],
    "residual of the input into a convolution": lambda r: [
        conv(r, "a", "x", 5, 5),
        f.Add("b", ("a", "x"), ("b",)),
        conv(r, "c", "b", 5, 6),
    ],
    "residual of a table into a convolution": lambda r: [
        conv(r, "a", "x", 5, 5),
        swish("b", "x"),
        f.Add("c", ("a", "b"), ("c",)),
        conv(r, "d", "c", 5, 6),
    ],
    "residual of a gated tensor into a convolution": lambda r: [
        *squeeze_excite(r, [gate("gate", "excite")]),
        conv(r, "e", "gated", 5, 5),
        f.Add("g", ("e", "gated"), ("g",)),
        conv(r, "h", "g", 5, 6),
    ],
    "residual of a max pool into a convolution": lambda r: [
        conv(r, "a", "x", 5, 6),
        relu("b", "a"),
        f.Pool("c", ("b",), ("c",), "max", (2, 2), (1, 1), (0, 0, 1, 1)),
        conv(r, "d", "c", 6, 6),
        f.Add("e", ("d", "c"), ("e",)),
        conv(r, "g", "e", 6, 6),
    ],
    "two convolutions meet": lambda r: [
        conv(r, "a", "x", 5, 6),
        conv(r, "b", "x", 5, 6),
        f.Add("c", ("a", "b"), ("c",)),
    ],
    "sum of stored tensors": lambda r: [
        conv(r, "a", "x", 5, 6),
        relu("b", "a"),
        conv(r, "c", "x", 5, 6, gain=3),
        swish("d", "c"),
        f.Add("e", ("b", "d"), ("e",)),
    ],
    "h-swish of a sum": lambda r: [
        conv(r, "a", "x", 5, 5),
        f.Add("b", ("a", "x"), ("b",)),
        swish("c", "b"),
    ],
    "average pool": lambda r: [
        f.Pool("a", ("x",), ("a",), "average", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True)
    ],
    "max pool": lambda r: [f.Pool("a", ("x",), ("a",), "max", (3, 3), (2, 2), (1, 1, 1, 1))],
    "global pool of scales a channel": lambda r: [
        conv(r, "a", "x", 5, 9),
        swish("b", "a"),
        f.GlobalAveragePool("c", ("b",), ("c",)),
        conv(r, "d", "c", 9, 4),
    ],
}


def ratio(graph: Graph, quantized: Graph, batch: Sequence[np.ndarray]) -> float:
    """Signal to noise of the first output over a batch; everything through the doors as the tensors say."""
    tensor, output = quantized.tensor("x"), quantized.tensor(quantized.outputs[0])
    assert tensor.quant is not None
    got, want = [], []
    for x in batch:
        raw = np.rint(x / np.asarray(tensor.quant.scale)) + np.asarray(tensor.quant.zero_point)
        values = integer.run(quantized, {"x": np.clip(raw, -128, 127).astype(np.int8)})
        result = values[quantized.outputs[0]].astype(np.float64)
        if output.quant is not None:
            result = (result - np.asarray(output.quant.zero_point)) * np.asarray(output.quant.scale)
        got.append(result)
        want.append(floating.run(graph, {"x": x})[graph.outputs[0]])
    return signal_to_noise(np.asarray(want), np.asarray(got) - np.asarray(want))


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_follows_float(name: str) -> None:
    graph = build(SHAPE, PATTERNS[name](np.random.default_rng(11)))
    quantized = quantize(graph, inputs(graph, 16, 1), seed=1)
    assert ratio(graph, quantized, inputs(graph, 4, 2)) > 29


def kinds(graph: Graph) -> list[type[Node]]:
    return [type(n) for n in graph.nodes]


def test_one_rounding_to_eight_bits() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        conv(rng, "a", "x", 5, 8),
        swish("b", "a"),
        conv(rng, "c", "b", 8, 5),
        f.Add("d", ("c", "x"), ("d",)),
    ]
    graph = quantize(build(SHAPE, nodes), inputs(build(SHAPE, nodes), 8, 0))
    assert kinds(graph) == [q.QConv, q.QHardSwish, q.QConv, q.QAdd]
    assert [graph.tensor(t).dtype for t in "abcd"] == ["int16", "int8", "int16", "int8"]
    add = graph.nodes[3]
    assert isinstance(add, q.QAdd) and add.bias == 0 and add.multipliers[0] == 0


def test_scales_a_channel_only_where_consumers_allow() -> None:
    rng = np.random.default_rng(4)
    expand = conv(rng, "a", "x", 5, 12)
    expand.weight[:] *= np.geomspace(0.01, 10, 12, dtype=np.float32)[:, None, None, None]
    nodes = [
        expand,
        relu("b", "a"),
        conv(rng, "c", "b", 12, 12, 3, depthwise=True),
        conv(rng, "d", "x", 5, 12),
        f.Add("e", ("c", "d"), ("e",)),
        swish("g", "e"),
    ]
    graph = build(SHAPE, nodes)
    quantized = quantize(graph, inputs(graph, 8, 0))
    wide = quantized.tensor("b").quant
    assert wide is not None and max(wide.scale) / min(wide.scale) > 20
    for single in ("e", "g"):
        quant = quantized.tensor(single).quant
        assert quant is not None and not quant.per_channel


def test_small_channels_survive_a_wide_one() -> None:
    rng = np.random.default_rng(4)
    expand = conv(rng, "a", "x", 5, 12)
    expand.weight[:] *= np.geomspace(0.01, 10, 12, dtype=np.float32)[:, None, None, None]
    expand.bias[:] = 0
    graph = build(SHAPE, [expand, relu("b", "a"), conv(rng, "c", "b", 12, 12, 3, depthwise=True)])
    quantized = quantize(graph, inputs(graph, 16, 0))
    x = inputs(graph, 1, 9)[0]
    tensor, hidden = quantized.tensor("x").quant, quantized.tensor("b").quant
    assert tensor is not None and hidden is not None
    raw = np.clip(np.rint(x / tensor.scale[0]), -128, 127).astype(np.int8)
    got = integer.run(quantized, {"x": raw}, keep=True)["b"]
    real = (got.astype(np.float64) - np.asarray(hidden.zero_point)) * np.asarray(hidden.scale)
    want = floating.run(graph, {"x": x}, keep=True)["b"]
    for channel in range(12):
        assert signal_to_noise(want[..., channel], real[..., channel] - want[..., channel]) > 25


def test_hand_arithmetic_of_one_multiplication() -> None:
    # y = 2 x + 0.5 on x in [-1, 1], to int16: input scale 1/127, weight 127 in units of 2/127.
    one = f.Conv2d("y", ("x",), ("y",), np.full((1, 1, 1, 1), 2, np.float32), np.full(1, 0.5, np.float32))
    graph = build((1, 1, 1), [one])
    data = [np.full((1, 1, 1), v, np.float32) for v in np.linspace(-1, 1, 41)]
    quantized = quantize(graph, data)
    node = quantized.nodes[0]
    assert isinstance(node, q.QConv) and node.weight.item() == 127
    quant = quantized.tensor("y").quant
    assert quant is not None and quant.scale[0] == pytest.approx(1.5 * 2.5 / 32767)
    for raw in (-127, -1, 0, 1, 64, 127):
        out = integer.run(quantized, {"x": np.full((1, 1, 1), raw, np.int8)})["y"].item()
        assert out * quant.scale[0] == pytest.approx(2 * raw / 127 + 0.5, abs=1.01 * quant.scale[0] + 2e-3)
