"""Sums and products that broadcast, quantised: accuracy, the operators chosen, importances."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.images import Normalization
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.ir.serialize import dumps, loads
from mnv3c.ir.verify import verify
from mnv3c.passes import run_passes
from mnv3c.quant import quantize
from mnv3c.quant.mixed import outputs_db
from tests.quant.test_importance import test_importance_is_the_effect_of_a_small_change as check_importance

HEIGHT, WIDTH, CHANNELS = 6, 7, 8
SHAPES = {
    "C": (1, 1, CHANNELS),
    "HW": (HEIGHT, WIDTH, 1),
    "": (1, 1, 1),
    "HC": (HEIGHT, 1, CHANNELS),
    "WC": (1, WIDTH, CHANNELS),
    "H": (HEIGHT, 1, 1),
    "HWC": (HEIGHT, WIDTH, CHANNELS),
}


class Net:
    """Two branches of a stem, and what a test does with them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.tensors = {"x": Tensor("x", (HEIGHT, WIDTH, 3))}
        self.stem = self.activate(self.conv("x", CHANNELS, 3), "clip", low=0.0)

    def add(self, node: type[Node], inputs: tuple[str, ...], shape: Shape, **fields: object) -> str:
        name = f"{node.__name__.lower()}{len(self.nodes)}"
        self.nodes.append(node(name, inputs, (name,), **fields))
        self.tensors[name] = Tensor(name, shape)
        return name

    def conv(self, x: str, out: int, kernel: int = 1) -> str:
        height, width, channels = self.tensors[x].shape
        weight = self.rng.normal(0, 1 / np.sqrt(channels * kernel**2), (out, kernel, kernel, channels))
        bias = self.rng.normal(0, 0.1, out).astype(np.float32)
        fields = {"weight": weight.astype(np.float32), "bias": bias, "pad": (kernel // 2,) * 4}
        return self.add(f.Conv2d, (x,), (height, width, out), **fields)

    def activate(self, x: str, kind: str, **fields: object) -> str:
        return self.add(f.Activation, (x,), self.tensors[x].shape, kind=kind, **fields)

    def branch(self, own: str, activation: str = "") -> str:
        height, width, channels = SHAPES[own]
        kernel = HEIGHT // height, WIDTH // width
        x = self.stem
        if kernel == (HEIGHT, WIDTH):
            x = self.add(f.GlobalAveragePool, (x,), (1, 1, CHANNELS))
        elif kernel != (1, 1):
            shape = (height, width, CHANNELS)
            x = self.add(f.Pool, (x,), shape, kind="average", kernel=kernel, stride=kernel)
        x = self.conv(x, channels)
        return self.activate(x, activation) if activation else x

    def finish(self, kind: type[Node], a: str, b: str) -> Graph:
        shape = broadcast(self.tensors[a].shape, self.tensors[b].shape)
        assert shape is not None
        out = self.conv(self.add(kind, (a, b), shape), 4)
        return verify(Graph("net", tuple(self.nodes), self.tensors, ("x",), (out,)))


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, HEIGHT, WIDTH, 3)).astype(np.float32)


def decibels(graph: Graph) -> tuple[Graph, float]:
    quantized = quantize(graph, list(images()))
    return quantized, outputs_db(graph, quantized, images())


@pytest.mark.parametrize("own", SHAPES)
@pytest.mark.parametrize("kind", [f.Add, f.Multiply])
def test_computed_tensors(kind: type[Node], own: str) -> None:
    for activation in ("", "sigmoid"):
        for swap in (False, True):
            net = Net()
            pair = net.branch("HWC"), net.branch(own, activation)
            graph = net.finish(kind, *(pair[::-1] if swap else pair))
            quantized, noise = decibels(graph)
            assert noise > 27, (activation, swap)
            kinds = [type(n) for n in quantized]
            gated = own in ("C", "") or activation == "sigmoid"
            if kind is f.Add:
                assert kinds.count(q.QAdd) == 1
            elif not swap or activation == "sigmoid":
                assert kinds.count(q.QGate if gated else q.QMultiply) == 1
            assert kinds.count(q.QGate) + kinds.count(q.QMultiply) == (kind is f.Multiply)


@pytest.mark.parametrize(("a", "b"), [("HC", "WC"), ("HW", "C"), ("H", "WC")])
@pytest.mark.parametrize("kind", [f.Add, f.Multiply])
def test_results_larger_than_either_operand(kind: type[Node], a: str, b: str) -> None:
    net = Net(3)
    assert decibels(net.finish(kind, net.branch(a), net.branch(b)))[1] > 27


@pytest.mark.parametrize("own", ["HW", "HC", "HWC"])
@pytest.mark.parametrize("kind", [f.Add, f.Multiply])
def test_constants(kind: type[Node], own: str) -> None:
    net = Net()
    values = net.rng.normal(0, 0.5, SHAPES[own]).astype(np.float32)
    fixed = net.add(f.Constant, (), SHAPES[own], values=values)
    quantized, noise = decibels(net.finish(kind, net.branch("HWC"), fixed))
    assert noise > 27
    (node,) = [n for n in quantized if isinstance(n, q.QConstant)]
    stored = quantized.tensor(node.output).quant
    assert stored is not None
    real = stored.scale[0] * (node.values.astype(np.float64) - stored.zero_point[0])
    assert np.abs(real - values).max() <= 0.51 * stored.scale[0]
    assert dumps(loads(dumps(quantized))) == dumps(quantized)


@pytest.mark.parametrize("size", [0.2, 5.0, 300.0])
def test_a_vector_of_any_size_is_a_gate(size: float) -> None:
    """No sigmoid bounds it: 2**15 then stands for more than one."""
    net = Net()
    vector = net.branch("C")
    conv = net.nodes[-1]
    assert isinstance(conv, f.Conv2d)
    conv.weight[:] *= size
    conv.bias[:] *= size
    quantized, noise = decibels(net.finish(f.Multiply, net.branch("HWC"), vector))
    assert noise > 27 and any(isinstance(n, q.QGate) for n in quantized)


def test_a_projection_is_not_rounded_in_a_sum_that_broadcasts() -> None:
    net = Net()
    vector = net.branch("C")
    quantized, _ = decibels(net.finish(f.Add, net.branch("HWC"), vector))
    assert not any(isinstance(n, q.FusedConv) and n.residual for n in run_passes(quantized))
    add = next(n for n in quantized if isinstance(n, q.QAdd))
    assert all(quantized.tensor(name).dtype == "int8" for name in add.inputs)


@pytest.mark.parametrize("second", ["x", "C", "HW"])
@pytest.mark.parametrize("kind", [f.Add, f.Multiply])
def test_an_image_with_a_scale_a_channel(kind: type[Node], second: str) -> None:
    """Normalisation gives each colour its own scale; sums and products have one multiplier for all."""
    spread, mean = np.asarray([30.0, 60.0, 120.0]), np.asarray([1.0, 2.0, 0.5])
    net = Net(4)
    if second == "x":
        other = net.conv("x", 3)
    else:
        shape = (1, 1, 3) if second == "C" else (HEIGHT, WIDTH, 1)
        other = net.add(f.Constant, (), shape, values=net.rng.normal(0, 1, shape).astype(np.float32))
    graph = net.finish(kind, "x", other)
    raw = net.rng.integers(0, 256, (8, HEIGHT, WIDTH, 3))
    batch = (raw / spread - mean).astype(np.float32)
    mapping = Normalization(tuple((1 / spread).tolist()), tuple((-mean).tolist()))
    quantized = quantize(graph, list(batch), input_dtype="uint8", normalization=mapping)
    assert outputs_db(graph, quantized, batch) > 30


@pytest.mark.parametrize("kind", [f.Add, f.Multiply])
def test_importances(kind: type[Node]) -> None:
    for a, b in (("HWC", "HW"), ("HWC", "C"), ("HC", "WC")):
        net = Net(5)
        check_importance(net.finish(kind, net.branch(a), net.branch(b)), 0)
