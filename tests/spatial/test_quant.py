"""Quantised operators that move pixels: integers against the float executor, and the rewrites before."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.ir.verify import verify
from mnv3c.quant import quantize
from mnv3c.quant.prepare import convolve_first, find_gates, plain_convolutions, prepare, wide_tensors
from mnv3c.reference import floating, integer
from mnv3c.verification.inputs import real


class Net:
    """A float graph, one node after the other; every weight comes from ``seed``."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"x": Tensor("x", (shape[0], shape[1], shape[2]))}
        self.nodes: list[Node] = []

    def emit(self, node: type[Node], inputs: tuple[str, ...], shape: Shape, **fields: object) -> str:
        name = f"{node.__name__.lower()}{len(self.nodes)}"
        self.tensors[name] = Tensor(name, shape)
        self.nodes.append(node(name, inputs, (name,), **fields))  # type: ignore[call-arg]
        return name

    def shape(self, name: str) -> Shape:
        return self.tensors[name].shape

    def conv(self, x: str, out: int) -> str:
        height, width, channels = self.shape(x)
        weight = self.rng.normal(0, channels**-0.5, (out, 1, 1, channels)).astype(np.float32)
        bias = self.rng.normal(0, 0.3, out).astype(np.float32)
        return self.emit(f.Conv2d, (x,), (height, width, out), weight=weight, bias=bias)

    def act(self, x: str, kind: str = "clip") -> str:
        low = {"low": 0.0} if kind == "clip" else {}
        return self.emit(f.Activation, (x,), self.shape(x), kind=kind, **low)

    def resize(self, x: str, height: int, width: int, coordinates: str = "half_pixel") -> str:
        shape = (height, width, self.shape(x)[2])
        return self.emit(f.Resize, (x,), shape, kind="bilinear", coordinates=coordinates)

    def finish(self, *outputs: str) -> Graph:
        return verify(Graph("net", tuple(self.nodes), self.tensors, ("x",), outputs))


def signal_to_noise(graph: Graph, seed: int = 1, count: int = 4) -> tuple[Graph, float]:
    """The quantised graph, and how near it is to the float one in decibels."""
    rng = np.random.default_rng(seed)
    shape = graph.tensor("x").shape
    images = [rng.normal(0, 1, shape).astype(np.float32) for _ in range(count)]
    quantized = quantize(graph, images, input_dtype="float32", output_dtype="float32")
    noise = signal = 0.0
    for image in images:
        want, got = floating.run(graph, {"x": image}), integer.run(quantized, {"x": image})
        for name in graph.outputs:
            value = real(quantized.tensor(name), got[name])
            noise += float(np.square(value - want[name]).sum())
            signal += float(np.square(want[name]).sum())
    return quantized, 10 * np.log10(signal / noise)


def kinds(graph: Graph) -> set[type]:
    return {type(n) for n in graph.nodes}


@pytest.mark.parametrize("kind", ["hard_sigmoid", "sigmoid"])
def test_gate_over_a_map_stays_in_sixteen_bits(kind: str) -> None:
    """The head of LR-ASPP: pooled, convolved, sigmoid, enlarged, multiplied."""
    net = Net(9, 13, 6)
    data = net.act(net.conv("x", 8))
    pooled = net.emit(f.Pool, ("x",), (2, 3, 6), kind="average", kernel=(7, 7), stride=(2, 3))
    gate = net.resize(net.act(net.conv(pooled, 8), kind), 9, 13, "align_corners")
    product = net.emit(f.Multiply, (gate, data), (9, 13, 8))
    quantized, decibels = signal_to_noise(net.finish(net.conv(product, 5)))
    wanted = {q.QAveragePool, q.QResize, q.QGate, q.QHardSigmoid if kind == "hard_sigmoid" else q.QSigmoid}
    assert wanted <= kinds(quantized)
    assert decibels > 33


def test_logits_stay_in_sixteen_bits_up_to_the_classes() -> None:
    net = Net(6, 7, 5)
    low = net.resize(net.conv("x", 4), 12, 14)
    big = net.resize("x", 12, 14)
    logits = net.emit(f.Add, (low, net.conv(big, 4)), (12, 14, 4))
    full = net.resize(logits, 30, 29)
    classes = net.emit(f.ArgMax, (full,), (30, 29, 1))
    graph = net.finish(classes)
    rng = np.random.default_rng(5)
    images = [rng.normal(0, 1, (6, 7, 5)).astype(np.float32) for _ in range(4)]
    quantized = quantize(graph, images, input_dtype="float32")
    assert quantized.tensor(classes).dtype == "uint8"
    assert {quantized.tensor(n).dtype for n in (logits, full)} == {"int16"}
    assert q.QAdd16 in kinds(quantized)
    for image in images:
        want = floating.run(graph, {"x": image})[classes]
        got = integer.run(quantized, {"x": image})[classes]
        assert (got == want).mean() > 0.97


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_of_different_scales(axis: int) -> None:
    net = Net(5, 6, 4)
    a, b = net.act(net.conv("x", 4)), net.conv("x", 4)
    shape = [5, 6, 4]
    shape[axis] *= 2
    joined = net.emit(f.Concat, (a, b), (shape[0], shape[1], shape[2]), axis=axis)
    part = net.emit(f.Slice, (joined,), (4, 5, 3), begin=(1, 1, 1))
    quantized, decibels = signal_to_noise(net.finish(part))
    assert {q.QConcat, q.QSlice} <= kinds(quantized) and decibels > 30


def test_product_of_two_maps() -> None:
    net = Net(5, 6, 4)
    product = net.emit(f.Multiply, (net.conv("x", 6), net.conv("x", 6)), (5, 6, 6))
    quantized, decibels = signal_to_noise(net.finish(net.act(product)))
    assert q.QMultiply in kinds(quantized) and decibels > 28


@pytest.mark.parametrize("include", [False, True])
def test_average_pool_with_padding(include: bool) -> None:
    net = Net(8, 9, 5)
    fields = {"kernel": (3, 3), "stride": (1, 1), "pad": (1, 1, 1, 1), "count_include_pad": include}
    pooled = net.emit(f.Pool, (net.act(net.conv("x", 6)),), (8, 9, 6), kind="average", **fields)
    _, decibels = signal_to_noise(net.finish(net.conv(pooled, 4)))
    assert decibels > 32


def test_transposed_convolution() -> None:
    net = Net(5, 4, 6)
    weight = net.rng.normal(0, 0.3, (3, 4, 4, 6)).astype(np.float32)
    bias = net.rng.normal(0, 0.3, 3).astype(np.float32)
    fields = {"weight": weight, "bias": bias, "stride": (2, 2), "pad": (1, 1, 1, 1)}
    graph = net.finish(net.emit(f.TransposedConv2d, (net.act(net.conv("x", 6)),), (10, 8, 3), **fields))
    quantized, decibels = signal_to_noise(graph)
    assert {q.QSpread, q.QConv} <= kinds(quantized) and decibels > 32


def same_function(before: Graph, after: Graph) -> None:
    image = np.random.default_rng(3).normal(0, 1, before.tensor("x").shape).astype(np.float32)
    want, got = floating.run(before, {"x": image}), floating.run(verify(after), {"x": image})
    for name in before.outputs:
        np.testing.assert_allclose(got[name], want[name], atol=2e-4)


def test_convolution_changes_places_with_an_enlargement() -> None:
    net = Net(4, 5, 6)
    graph = net.finish(net.conv(net.resize(net.resize("x", 6, 9), 12, 20), 3))
    after = convolve_first(graph)
    assert [type(n) for n in after.nodes] == [f.Conv2d, f.Resize, f.Resize]
    same_function(graph, after)
    smaller = Net(8, 8, 6)
    reduced = smaller.finish(smaller.conv(smaller.resize("x", 3, 3), 3))
    assert convolve_first(reduced) == reduced


def test_rewrites_keep_the_function() -> None:
    net = Net(6, 6, 4)
    data, gate = net.conv("x", 4), net.act(net.conv("x", 4), "sigmoid")
    product = net.emit(f.Multiply, (gate, data), (6, 6, 4))
    weight = net.rng.normal(0, 0.3, (2, 3, 3, 4)).astype(np.float32)
    fields = {"weight": weight, "bias": np.ones(2, np.float32), "stride": (3, 2), "pad": (0, 1, 2, 0)}
    graph = net.finish(net.emit(f.TransposedConv2d, (product,), (16, 12, 2), **fields))
    after = prepare(graph)
    same_function(graph, after)
    same_function(graph, plain_convolutions(graph))
    assert next(n for n in after if isinstance(n, f.Multiply)).inputs == (data, gate)


def test_tensorflows_gate_is_found() -> None:
    net = Net(1, 1, 4)
    clipped = net.emit(f.Activation, (net.conv("x", 4),), (1, 1, 4), kind="clip", low=0.0, high=6.0)
    sixth = np.full((4, 1, 1, 1), 0.16667, np.float32)
    zero = np.zeros(4, np.float32)
    graph = net.finish(net.emit(f.Conv2d, (clipped,), (1, 1, 4), weight=sixth, bias=zero, groups=4))
    after = find_gates(graph)
    assert [type(n) for n in after.nodes] == [f.Conv2d, f.Activation]
    same_function(graph, after)
    again = Net(1, 1, 4)
    gate = again.act(again.conv("x", 4), "hard_sigmoid")
    almost = np.full((4, 1, 1, 1), 1.00002, np.float32)
    graph = again.finish(again.emit(f.Conv2d, (gate,), (1, 1, 4), weight=almost, bias=zero, groups=4))
    assert [type(n) for n in find_gates(graph).nodes] == [f.Conv2d, f.Activation]
    same_function(graph, find_gates(graph))


def test_wide_tensors() -> None:
    net = Net(4, 4, 3)
    a, b = net.conv("x", 3), net.conv("x", 3)
    total = net.emit(f.Add, (a, b), (4, 4, 3))
    enlarged = net.resize(total, 8, 8)
    graph = net.finish(enlarged)
    assert wide_tensors(graph, "int16") == {a, b, total, enlarged}
    assert wide_tensors(graph, "int8") == frozenset()
    again = net.finish(net.emit(f.Add, (net.act(a), b), (4, 4, 3)))
    assert wide_tensors(again, "int16") == frozenset()


def test_too_many_classes_are_refused() -> None:
    net = Net(2, 2, 3)
    graph = net.finish(net.emit(f.ArgMax, (net.conv("x", 300),), (2, 2, 1)))
    with pytest.raises(Mnv3cError, match="more than 256 classes"):
        quantize(graph)
