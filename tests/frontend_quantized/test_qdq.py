"""ONNX QDQ against onnxruntime, value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized
from mnv3c.ir import int_ops as q
from mnv3c.reference import integer

onnxruntime = pytest.importorskip("onnxruntime")


class File:
    """A QDQ model under construction; methods return names of values."""

    def __init__(self, dtype: str = "uint8", seed: int = 0) -> None:
        self.dtype, self.rng = dtype, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scales: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []

    def name(self) -> str:
        return f"v{len(self.nodes)}_{len(self.constants)}"

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def node(self, op: str, *inputs: str, **attributes) -> str:
        out = self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def input(self, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
        return "image"

    def stored(self, x: str, scale: float, zero_point: int, dtype: str | None = None) -> str:
        """Q and DQ."""
        s = self.constant(np.float32(scale))
        z = self.constant(np.asarray(zero_point, dtype or self.dtype))
        out = self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)
        self.scales[out] = np.float32(scale)
        return out

    def dequantized(self, array, scale, zero_point, axis: int = 0) -> str:
        array = np.asarray(array)
        s = self.constant(np.asarray(scale, np.float32))
        z = self.constant(np.asarray(np.broadcast_to(zero_point, np.shape(scale)), array.dtype))
        return self.node("DequantizeLinear", self.constant(array), s, z, axis=axis)

    def conv(self, x: str, channels: int, out: int, kernel: int, groups: int = 1, **attributes) -> str:
        shape = (out, channels // groups, kernel, kernel)
        unsigned = self.dtype == "uint8"
        weight = self.rng.integers(0 if unsigned else -127, 256 if unsigned else 128, shape).astype(
            self.dtype
        )
        scale = np.float32(0.01) if unsigned else self.rng.uniform(0.005, 0.02, out).astype(np.float32)
        w = self.dequantized(weight, scale, 120 if unsigned else 0)
        bias = self.rng.integers(-900, 900, out).astype(np.int32)
        b = self.dequantized(bias, np.broadcast_to(scale * self.scales[x], (out,)), 0)
        return self.node("Conv", x, w, b, kernel_shape=[kernel, kernel], group=groups, **attributes)

    def model(self) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in self.outputs]
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "g", self.inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def network(dtype: str, swish: str = "HardSwish", seed: int = 0) -> File:
    """Convolution, h-swish in some form, depthwise, SE block, residual add, pool, logits, softmax."""
    f = File(dtype, seed)
    zero = 0 if dtype == "uint8" else -128
    # Scales as training leaves them: round ones make exact halves, where runtimes differ.
    x = f.stored(f.input(1, 3, 14, 14), 0.00783, 128 + zero)
    a = f.stored(f.conv(x, 3, 8, 3, strides=[2, 2], pads=[0, 0, 1, 1]), 0.08317, 100 + zero)
    if swish == "HardSwish":
        y = f.node("HardSwish", a)
    else:
        three, low, high, six = (f.constant(np.float32(v)) for v in (3, 0, 6, 6))
        clipped = f.node("Clip", f.node("Add", a, three), low, high)
        if swish == "division after":
            y = f.node("Div", f.node("Mul", a, clipped), six)
        else:
            y = f.node("Mul", a, f.node("Div", clipped, six))
    y = f.stored(y, 0.05129, 8 + zero)
    d = f.stored(f.node("Relu", f.conv(y, 8, 8, 5, 8, pads=[2, 2, 2, 2])), 0.06147, zero)
    pool = f.stored(f.node("GlobalAveragePool", d), 0.06147, zero)
    squeeze = f.stored(f.node("Relu", f.conv(pool, 8, 4, 1)), 0.04211, zero)
    excite = f.stored(f.conv(squeeze, 4, 8, 1), 0.05303, 90 + zero)
    gate = f.stored(f.node("HardSigmoid", excite, alpha=1 / 6, beta=0.5), 0.0039153, zero)
    gated = f.stored(f.node("Mul", d, gate), 0.05837, zero)
    p = f.stored(f.conv(gated, 8, 8, 1), 0.07211, 128 + zero)
    total = f.stored(f.node("Add", p, y), 0.08089, 110 + zero)
    mean = f.stored(f.node("ReduceMean", total, axes=[2, 3], keepdims=1), 0.07103, 115 + zero)
    logits = f.stored(f.conv(mean, 8, 10, 1), 0.05171, 130 + zero)
    flat = f.stored(f.node("Reshape", logits, f.constant(np.array([1, 10]))), 0.05171, 130 + zero)
    f.outputs = [flat]
    return f


def load(file: File, folder: Path):
    path = folder / "model.onnx"
    onnx.save(file.model(), path)
    return quantized.load(path)


def compare(file: File, graph, images: int = 3) -> None:
    session = onnxruntime.InferenceSession(file.model().SerializeToString())
    for seed in range(images):
        x = np.random.default_rng(seed).uniform(-1, 1, (3, 14, 14)).astype(np.float32)
        want = session.run(None, {"image": x[None]})[0].ravel()
        got = integer.run(graph, {"image": np.ascontiguousarray(x.transpose(1, 2, 0))})[
            graph.outputs[0]
        ].ravel()
        assert np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("swish", ["HardSwish", "division inside", "division after"])
def test_network_equals_onnxruntime(tmp_path, dtype, swish):
    file = network(dtype, swish)
    graph = load(file, tmp_path)
    # However it is written, the activation is one table.
    assert sum(isinstance(n, q.QLut) for n in graph) == 2
    compare(file, graph)


def test_softmax_is_left_out_with_a_note(tmp_path):
    file = network("uint8")
    probabilities = file.node("Softmax", file.outputs[0], axis=-1)
    file.outputs = [file.stored(probabilities, 1 / 256, 0)]
    graph = load(file, tmp_path)
    assert any("softmax" in note for note in graph.meta["notes"]) and graph.outputs[0].endswith("_logits")
    file.outputs = [file.nodes[-3].input[0]]
    compare(file, graph)


def soft(dtype: str, size: int, scale: float, zero: int, axis: int = 1) -> File:
    """A softmax of the input (a vector where ``size`` is 1), then a convolution that reads it."""
    f = File(dtype)
    shift = 128 if dtype == "int8" else 0
    y = f.stored(f.input(1, 7, size, size), 0.03, 120 - shift)
    share = f.stored(f.node("Softmax", y, axis=axis), scale, zero - shift)
    f.outputs = [share, f.stored(f.conv(share, 7, 5, 1), 0.002, 128 - shift)]
    return f


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize(("scale", "zero"), [(1 / 256, 0), (0.00389, 0), (0.0021, 7)])
def test_softmax_inside_is_onnxruntimes(tmp_path, dtype, size, scale, zero):
    file = soft(dtype, size, scale, zero)
    graph = load(file, tmp_path)
    assert sum(isinstance(n, q.QSoftmax) for n in graph) == 1 and "softmax" not in str(graph.meta["notes"])
    # Unfused: onnxruntime's own 8-bit softmax rounds twice where the scale is not 1/256.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.model().SerializeToString(), options)
    for seed in range(6):
        x = np.random.default_rng(seed).uniform(-3, 3, (7, size, size)).astype(np.float32)
        want = session.run(None, {"image": x[None]})
        got = integer.run(graph, {"image": np.ascontiguousarray(x.transpose(1, 2, 0))})
        for name, wanted in zip(graph.outputs, want, strict=True):
            np.testing.assert_allclose(got[name].transpose(2, 0, 1), wanted[0], atol=1e-5)


@pytest.mark.parametrize(("size", "axis"), [(6, 2), (6, -1), (1, 0), (1, 3)])
def test_softmax_over_another_axis(tmp_path, size, axis):
    with pytest.raises(Mnv3cError, match=rf"\(Softmax\): runs over axis {axis}, not over the channels"):
        load(soft("int8", size, 1 / 256, 0, axis), tmp_path)


def test_softmax_of_what_is_not_stored(tmp_path):
    f = File("int8")
    x = f.stored(f.input(1, 3, 4, 4), 0.01, 0)
    f.outputs = [f.stored(f.node("Softmax", f.conv(x, 3, 4, 1), axis=1), 1 / 256, -128)]
    with pytest.raises(Mnv3cError, match="which is not quantised"):
        load(f, tmp_path)


def test_gemm_and_matmul(tmp_path):
    for op in ("Gemm", "MatMul"):
        f = File("int8")
        x = f.stored(f.input(1, 4, 1, 1), 0.01, 3)
        flat = f.node("Flatten", x)
        f.scales[flat] = f.scales[x]
        weight = f.dequantized(f.rng.integers(-127, 128, (4, 6)).astype(np.int8), np.float32(0.01), 0)
        y = f.node(op, flat, weight)
        f.outputs = [f.stored(y, 0.02, -4)]
        graph = load(f, tmp_path)
        image = f.rng.uniform(-1, 1, (1, 4, 1, 1)).astype(np.float32)
        want = onnxruntime.InferenceSession(f.model().SerializeToString()).run(None, {"image": image})[0]
        got = integer.run(graph, {"image": image.reshape(1, 1, 4)})[graph.outputs[0]]
        assert np.allclose(got.ravel(), want.ravel(), atol=1e-6)


def damaged(what) -> File:
    f = File("int8")
    x = f.stored(f.input(1, 3, 8, 8), 0.01, 0)
    y = f.conv(x, 3, 4, 3, pads=[1, 1, 1, 1])
    f.outputs = [f.stored(y, 0.05, 0)]
    what(f)
    return f


def _set(index, value):
    return lambda f: f.constants.__setitem__(index, value)


BAD = {
    "not positive": _set("c0", np.float32(0)),
    "scale c0 that is not positive": _set("c0", np.float32(np.nan)),
    "quantises to int16": _set("c1", np.int16(0)),
    "has no constant scale": lambda f: f.constants.pop("c0"),
    "is not supported; the QLinear form": lambda f: setattr(f.nodes[2], "op_type", "QLinearConv"),
    "Resize.*is not supported": lambda f: setattr(f.nodes[4], "op_type", "Resize"),
    "is not quantised": lambda f: f.outputs.__setitem__(0, f.nodes[4].output[0]),
    "no node before it computes": lambda f: f.nodes[4].input.__setitem__(0, "nowhere"),
    "do not fit": lambda f: _attribute(f, "group", 3),
    "has padding": lambda f: _attribute(f, "pads", [1, -1, 1, 1]),
    "stride": lambda f: _attribute(f, "strides", [0, 1]),
    "shape": lambda f: f.inputs.__setitem__(0, helper.make_tensor_value_info("image", 1, [1, 3, -1, 8])),
}


def _attribute(f, name, value):
    kept = [
        onnx.AttributeProto.FromString(a.SerializeToString()) for a in f.nodes[4].attribute if a.name != name
    ]
    del f.nodes[4].attribute[:]
    f.nodes[4].attribute.extend([*kept, helper.make_attribute(name, value)])


@pytest.mark.parametrize("message", list(BAD))
def test_bad_files_are_named(tmp_path, message):
    with pytest.raises(Mnv3cError, match=message) as caught:
        load(damaged(BAD[message]), tmp_path)
    assert "model.onnx" in str(caught.value) and "\n" not in str(caught.value)


def test_is_quantized(tmp_path, data):
    path = tmp_path / "model.onnx"
    onnx.save(network("int8").model(), path)
    assert quantized.is_quantized(path)
    assert not quantized.is_quantized(data / "models" / "mobilenet_v3_small_1.0_224_float.onnx")
    path.write_bytes(b"\xff\x00nonsense")
    with pytest.raises(Mnv3cError, match="not an ONNX file"):
        quantized.is_quantized(path)
