"""QDQ sums and products that broadcast, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer

onnxruntime = pytest.importorskip("onnxruntime")
HEIGHT, WIDTH, CHANNELS = 6, 7, 5
OWN = ("C", "HW", "", "HC", "WC", "H", "W")
SCALES = {
    "image": 0.00783,
    "pool": 0.00611,
    "map": 0.03117,
    "small": 0.02031,
    "constant": 0.01113,
    "Add": 0.04127,
    "Sub": 0.04127,
    "Mul": 0.00619,
    "Div": 1.0,
}


def shape(own: str) -> tuple[int, int, int, int]:
    return 1, CHANNELS if "C" in own else 1, HEIGHT if "H" in own else 1, WIDTH if "W" in own else 1


class Net:
    """A 1x1 convolution of the image, ``map``; a test adds or multiplies something smaller."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.zero = dtype, 120 if dtype == "uint8" else -8
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.stored("image", "image")
        self.conv("image_dq", "map", CHANNELS)

    def put(self, name: str, array: object, dtype: object = np.float32) -> str:
        self.constants[name] = np.asarray(array, dtype)  # type: ignore[call-overload]
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def parameters(self, name: str, scale: float, zero: int, dtype: str) -> list[str]:
        return [self.put(f"{name}_s", scale), self.put(f"{name}_z", zero, dtype)]

    def stored(self, x: str, name: str, scale: float | None = None) -> None:
        pair = self.parameters(name, scale or SCALES[name], self.zero, self.dtype)
        self.node(
            "DequantizeLinear", [self.node("QuantizeLinear", [x, *pair], f"{name}_q"), *pair], f"{name}_dq"
        )

    def fixed(self, name: str, values: np.ndarray, scale: float, zero: int, dtype: str) -> str:
        pair = self.parameters(name, scale, zero, dtype)
        return self.node("DequantizeLinear", [self.put(name, values, dtype), *pair], f"{name}_dq")

    def conv(self, x: str, name: str, out: int) -> None:
        weight = self.rng.integers(-127, 128, (out, 3, 1, 1))
        w = self.fixed(f"{name}_w", weight, 0.0123, 0, "int8")
        self.stored(self.node("Conv", [x, w], f"{name}_c"), name)

    def smaller(self, own: str) -> str:
        """A tensor that is computed from the image."""
        x = "image_dq"
        kernel = [1 if "H" in own else HEIGHT, 1 if "W" in own else WIDTH]
        if kernel != [1, 1]:
            pooled = self.node("AveragePool", [x], "pooled", kernel_shape=kernel)
            self.stored(pooled, "pool")
            x = "pool_dq"
        self.conv(x, "small", CHANNELS if "C" in own else 1)
        return "small_dq"

    def constant(self, dims: tuple[int, ...]) -> str:
        values = self.rng.integers(0, 256, dims) + (0 if self.dtype == "uint8" else -128)
        return self.fixed("constant", values, SCALES["constant"], self.zero + 5, self.dtype)

    def finish(self, op: str, a: str, b: str) -> bytes:
        self.stored(self.node(op, [a, b], "y"), "y", SCALES[op])
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in SHAPES.items()]
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "g", info[:1], info[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())


SHAPES = {"image": [1, 3, HEIGHT, WIDTH], "y_dq": None}


def check(data: bytes, folder: Path, scale: float) -> Graph:
    """Compare with onnxruntime, which computes these sums in float32: one step where that is near a half."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    graph = quantized.load(path)
    session = onnxruntime.InferenceSession(data)
    for seed in range(3):
        x = np.random.default_rng(seed).uniform(-1, 1, (3, HEIGHT, WIDTH)).astype(np.float32)
        want = session.run(None, {"image": x[None]})[0][0].transpose(1, 2, 0)
        got = integer.run(graph, {"image": np.ascontiguousarray(x.transpose(1, 2, 0))})[graph.outputs[0]]
        steps = np.rint((got - want) / scale).astype(int)
        assert got.shape == want.shape and len(np.unique(want)) > 5
        # A product with one number repeats what one of 256 values gives.
        assert np.abs(steps).max() <= 1 and (steps != 0).mean() < 0.05
    return graph


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_map_and_computed_tensor(dtype: str, own: str, tmp_path: Path) -> None:
    for op in ("Add", "Mul"):
        for swap in (False, True):
            net = Net(dtype)
            pair = "map_dq", net.smaller(own)
            graph = check(net.finish(op, *(pair[::-1] if swap else pair)), tmp_path, SCALES[op])
            assert any(isinstance(n, q.QAdd32 if op == "Add" else q.QMultiply) for n in graph)


@pytest.mark.parametrize("own", ["C", "HW", "HC", "WC", "H", "W", "HWC"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_constants(dtype: str, own: str, tmp_path: Path) -> None:
    for op in ("Add", "Sub", "Mul"):
        net = Net(dtype)
        graph = check(net.finish(op, "map_dq", net.constant(shape(own)[op == "Mul" :])), tmp_path, SCALES[op])
        assert [n.values.shape for n in graph if isinstance(n, q.QConstant)] == [
            (*shape(own)[2:], shape(own)[1])
        ]


@pytest.mark.parametrize(
    ("op", "dims", "says"),
    [
        ("Add", (2, 5, 6, 7), "(Add Add_y): has a constant of shape [2, 5, 6, 7]"),
        ("Mul", (1, 1, 3, 7), "(Mul Mul_y): cannot multiply shapes (6, 7, 5) and (3, 7, 1)"),
        ("Div", (1, 5, 1, 1), "(Div Div_y): of two tensors is not supported"),
    ],
)
def test_what_does_not_fit_is_named(op: str, dims: tuple[int, ...], says: str, tmp_path: Path) -> None:
    net = Net("int8")
    path = tmp_path / "model.onnx"
    path.write_bytes(net.finish(op, "map_dq", net.constant(dims)))
    with pytest.raises(Mnv3cError) as caught:
        quantized.load(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
