"""TFLite sums and products that broadcast: float, uint8 and int8 files against LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized, tflite
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.reference import floating, integer
from tests.tflite_files import NONE, RELU, SAME, VALID, File

litert = pytest.importorskip("ai_edge_litert.interpreter")
HEIGHT, WIDTH, CHANNELS = 6, 7, 5
WHOLE = (1, HEIGHT, WIDTH, CHANNELS)
# What axes an operand has of its own: H(eight), W(idth), C(hannels).
OWN = ("C", "HW", "", "HC", "WC", "H", "W")


def shape(own: str) -> tuple[int, int, int, int]:
    return 1, HEIGHT if "H" in own else 1, WIDTH if "W" in own else 1, CHANNELS if "C" in own else 1


class Net:
    """A convolution of the image; a test puts a sum or product with something smaller behind it."""

    def __init__(self, dtype: str) -> None:
        self.file, self.dtype, self.shift = File(), dtype, 128 if dtype == "uint8" else 0
        self.rng = np.random.default_rng(0)
        self.image = self.value((1, HEIGHT, WIDTH, 3), 1 / 64, 3)
        self.file.inputs = [self.image]
        self.map = self.conv(self.image, WHOLE, 1 / 64)

    def value(self, shape: tuple[int, ...], scale: float, zero: int) -> int:
        if self.dtype == "float32":
            return self.file.tensor(shape, self.dtype)
        return self.file.tensor(shape, self.dtype, scale, zero + self.shift)

    def conv(self, x: int, result: tuple[int, ...], in_scale: float) -> int:
        channels = self.file.tensors[x].shape[3]
        wanted = (result[3], 1, 1, channels)
        if self.dtype == "float32":
            weight = self.file.tensor(wanted, self.dtype, data=self.rng.normal(0, 0.5, wanted))
            bias = self.file.tensor(wanted[:1], self.dtype, data=self.rng.normal(0, 0.3, wanted[0]))
        else:
            data = self.rng.integers(-127, 128, wanted) + self.shift
            weight = self.file.tensor(wanted, self.dtype, 0.01, self.shift, data)
            bias = self.rng.integers(-2000, 2000, wanted[0])
            unit = np.float32(in_scale) * np.float32(0.01)
            bias = self.file.tensor(wanted[:1], "int32", unit, None, bias)
        out = self.value(result, 0.0213, -5)
        options = self.file.window(1, SAME, NONE)
        return self.file.operator("CONV_2D", (x, weight, bias), out, "Conv2DOptions", 1, **options)

    def smaller(self, own: str) -> int:
        """A tensor that is computed from the image."""
        kernel = 1 if "H" in own else HEIGHT, 1 if "W" in own else WIDTH
        pooled = self.value((1, HEIGHT // kernel[0], WIDTH // kernel[1], 3), 1 / 64, 3)
        x = self.image
        if kernel != (1, 1):
            options = self.file.window(1, VALID, NONE) | {"filterHeight": kernel[0], "filterWidth": kernel[1]}
            options = {k: v for k, v in options.items() if not k.startswith("dilation")}
            x = self.file.operator("AVERAGE_POOL_2D", (x,), pooled, "Pool2DOptions", 1, **options)
        return self.conv(x, shape(own), 1 / 64)

    def constant(self, dims: tuple[int, ...]) -> int:
        if self.dtype == "float32":
            return self.file.tensor(dims, self.dtype, data=self.rng.normal(0, 0.5, dims))
        data = self.rng.integers(-128, 128, dims) + self.shift
        return self.file.tensor(dims, self.dtype, 0.011, 9 + self.shift, data)

    def finish(
        self, name: str, a: int, b: int, dims: tuple[int, ...] = WHOLE, activation: int = NONE
    ) -> None:
        out = self.value(dims, 0.02 if name == "MUL" else 0.03, 11)
        options = {"fusedActivationFunction": activation}
        kind = f"{name.capitalize()}Options"
        self.file.outputs = [self.file.operator(name, (a, b), out, kind, 1, **options)]


def check(net: Net, folder: Path) -> Graph:
    """Load the file and compare with LiteRT; returns the graph."""
    path = folder / "net.tflite"
    path.write_bytes(net.file.bytes())
    interpreter = litert.Interpreter(model_content=net.file.bytes())
    interpreter.allocate_tensors()
    graph = tflite.load_float(path) if net.dtype == "float32" else quantized.load(path)
    rng = np.random.default_rng(1)
    for _ in range(3):
        if net.dtype == "float32":
            x = rng.normal(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
        else:
            info = np.iinfo(net.dtype)
            x = rng.integers(info.min, info.max + 1, (HEIGHT, WIDTH, 3)).astype(net.dtype)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
        interpreter.invoke()
        want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        if net.dtype == "float32":
            got = floating.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
            np.testing.assert_allclose(got, want, atol=1e-5)
        else:
            got = integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
            assert len(np.unique(want)) > 5
            np.testing.assert_array_equal(got, want)
    return graph


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_map_and_computed_tensor(dtype: str, own: str, tmp_path: Path) -> None:
    for name in ("ADD", "MUL"):
        for swap in (False, True):
            net = Net(dtype)
            pair = net.map, net.smaller(own)
            net.finish(name, *(pair[::-1] if swap else pair), activation=RELU if swap else NONE)
            graph = check(net, tmp_path)
            kinds = (f.Add, q.QAdd32) if name == "ADD" else (f.Multiply, q.QMultiply)
            assert any(isinstance(n, kinds) for n in graph)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_result_larger_than_either_operand(dtype: str, tmp_path: Path) -> None:
    for name, a, b in (("ADD", "H", "W"), ("MUL", "HW", "C"), ("MUL", "WC", "HC")):
        net = Net(dtype)
        own = "".join(sorted({*a, *b}))
        net.finish(name, net.smaller(a), net.smaller(b), shape(own))
        check(net, tmp_path)


@pytest.mark.parametrize("own", ["C", "HW", "HC", "WC", "H", "W", "HWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_constants(dtype: str, own: str, tmp_path: Path) -> None:
    for name in ("ADD", "SUB", "MUL"):
        net = Net(dtype)
        net.finish(name, net.map, net.constant(shape(own)[1:] if name == "MUL" else shape(own)))
        graph = check(net, tmp_path)
        constants = [n.values.shape for n in graph if isinstance(n, f.Constant | q.QConstant)]
        assert constants == ([] if own == "C" and dtype == "float32" else [shape(own)[1:]])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_constant_widens_a_vector(dtype: str, tmp_path: Path) -> None:
    for name in ("ADD", "MUL"):
        for swap in (False, True):
            net = Net(dtype)
            pair = net.constant(WHOLE), net.smaller("C")
            net.finish(name, *(pair[::-1] if swap else pair))
            check(net, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("dims", "says"),
    [
        ((2, 1, 1, 1), "has shape [2, 1, 1, 1]; that of one image"),
        ((1, 1, 6, 7, 5), "has shape [1, 1, 6, 7, 5]; that of one image"),
        ((1, 1, 3, 5), "(ADD): has operands of shapes [1, 6, 7, 5] and [1, 1, 3, 5]"),
    ],
)
def test_what_does_not_fit_is_named(dims: tuple[int, ...], says: str, dtype: str, tmp_path: Path) -> None:
    net = Net(dtype)
    net.finish("ADD", net.map, net.constant(dims))
    path = tmp_path / "net.tflite"
    path.write_bytes(net.file.bytes())
    with pytest.raises(Mnv3cError) as caught:
        _ = tflite.load_float(path) if dtype == "float32" else quantized.load(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
