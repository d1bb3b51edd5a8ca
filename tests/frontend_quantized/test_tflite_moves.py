"""TFLite operators that move pixels: float, uint8 and int8 files against LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized, tflite
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.reference import floating, integer
from tests.tflite_files import NONE, RELU, SAME, VALID, File

litert = pytest.importorskip("ai_edge_litert.interpreter")
SHAPE = (1, 6, 7, 4)
SCALE, ZERO = 0.05, 3


class Net:
    """A convolution, then what a test puts behind it; tensors of one scale unless said otherwise."""

    def __init__(self, dtype: str) -> None:
        self.file, self.dtype, self.shift = File(), dtype, 128 if dtype == "uint8" else 0
        self.rng = np.random.default_rng(0)
        x = self.value((1, 6, 7, 3), 1 / 64)
        self.file.inputs = [x]
        operands = (x, *self.weights((4, 3, 3, 3), 1 / 64))
        options = self.file.window(1, SAME, NONE)
        self.x = self.file.operator("CONV_2D", operands, self.value(SHAPE), "Conv2DOptions", 1, **options)

    def value(self, shape: tuple[int, ...], scale: float = SCALE) -> int:
        if self.dtype == "float32":
            return self.file.tensor(shape, self.dtype)
        return self.file.tensor(shape, self.dtype, scale, ZERO + self.shift)

    def weights(self, shape: tuple[int, ...], in_scale: float) -> tuple[int, int]:
        if self.dtype == "float32":
            weight = self.file.tensor(shape, self.dtype, data=self.rng.normal(0, 0.3, shape))
            return weight, self.file.tensor(shape[:1], self.dtype, data=self.rng.normal(0, 0.3, shape[0]))
        scale = np.float32(0.01)
        data = self.rng.integers(-127, 128, shape) + self.shift
        weight = self.file.tensor(shape, self.dtype, scale, self.shift, data)
        bias = self.rng.integers(-900, 900, shape[0])
        return weight, self.file.tensor(shape[:1], "int32", np.float32(in_scale) * scale, None, bias)

    def integers(self, *values: int) -> int:
        return self.file.tensor((len(values),), "int32", data=values)

    def finish(self, output: int) -> None:
        self.file.outputs = [output]


def _slice(net: Net) -> None:
    operands = (net.x, net.integers(0, 1, 2, 1), net.integers(1, 3, -1, 2))
    net.finish(net.file.operator("SLICE", operands, net.value((1, 3, 5, 2)), "SliceOptions"))


def _strided_slice(net: Net) -> None:
    operands = (net.x, net.integers(0, 1, 0, -3), net.integers(1, -1, 5, 9), net.integers(1, 1, 1, 1))
    masks = {"beginMask": 0b0001, "endMask": 0b1000}
    out = net.value((1, 4, 5, 3))
    net.finish(net.file.operator("STRIDED_SLICE", operands, out, "StridedSliceOptions", **masks))


def _split(net: Net) -> None:
    parts = [net.value((1, 6, 7, 2)) for _ in range(2)]
    axis = net.file.tensor((), "int32", data=3)
    net.file.operator("SPLIT", (axis, net.x), parts[0], "SplitOptions", numSplits=2)
    net.file.operators[-1].outputs = parts
    options = {"axis": 3, "fusedActivationFunction": NONE}
    net.finish(
        net.file.operator("CONCATENATION", parts[::-1], net.value(SHAPE), "ConcatenationOptions", **options)
    )


def _split_v(net: Net) -> None:
    parts = [net.value((1, n, 7, 4)) for n in (1, 5)]
    axis = net.file.tensor((), "int32", data=1)
    net.file.operator("SPLIT_V", (net.x, net.integers(1, 5), axis), parts[0], "SplitVOptions", numSplits=2)
    net.file.operators[-1].outputs = parts
    options = {"axis": 1, "fusedActivationFunction": NONE}
    net.finish(
        net.file.operator("CONCATENATION", parts[::-1], net.value(SHAPE), "ConcatenationOptions", **options)
    )


def _amounts(net: Net) -> int:
    return net.file.tensor((4, 2), "int32", data=[[0, 0], [1, 2], [0, 3], [0, 0]])


def _pad(net: Net) -> None:
    net.finish(net.file.operator("PAD", (net.x, _amounts(net)), net.value((1, 9, 10, 4)), "PadOptions"))


def _padv2(net: Net, real: float = 0.0) -> None:
    if net.dtype == "float32":
        zero = net.file.tensor((), "float32", data=real)
    else:
        stored = ZERO + net.shift + round(real / SCALE)
        zero = net.file.tensor((), net.dtype, SCALE, ZERO + net.shift, stored)
    out = net.value((1, 9, 10, 4))
    net.finish(net.file.operator("PADV2", (net.x, _amounts(net), zero), out, "PadV2Options"))


def _transposed(padding: int, activation: int) -> Callable[[Net], None]:
    def build(net: Net) -> None:
        kernel = (5, 3, 3, 4)
        size = (12, 14) if padding == SAME else (13, 15)
        weight, bias = net.weights(kernel, SCALE)
        options = {"padding": padding, "strideH": 2, "strideW": 2, "fusedActivationFunction": activation}
        operands = (net.integers(1, *size, 5), weight, net.x, bias)
        out = net.value((1, *size, 5), 0.0937)
        version = 4 if activation else 3
        net.finish(
            net.file.operator("TRANSPOSE_CONV", operands, out, "TransposeConvOptions", version, **options)
        )

    return build


def _softmax(net: Net, beta: float = 1.0) -> None:
    """A softmax over the channels, then zeros around it."""
    quantization = () if net.dtype == "float32" else (1 / 256, net.shift - 128)
    soft, padded = (net.file.tensor((1, n, n + 1, 4), net.dtype, *quantization) for n in (6, 8))
    net.file.operator("SOFTMAX", (net.x,), soft, "SoftmaxOptions", beta=beta)
    amounts = net.file.tensor((4, 2), "int32", data=[[0, 0], [1, 1], [1, 1], [0, 0]])
    net.finish(net.file.operator("PAD", (soft, amounts), padded, "PadOptions"))


CASES: dict[str, tuple[Callable[[Net], None], type, type]] = {
    "slice": (_slice, f.Slice, q.QSlice),
    "strided slice": (_strided_slice, f.Slice, q.QSlice),
    "split": (_split, f.Slice, q.QSlice),
    "split by sizes": (_split_v, f.Slice, q.QSlice),
    "pad": (_pad, f.Spread, q.QSpread),
    "pad with a value": (_padv2, f.Spread, q.QSpread),
    "transposed, same": (_transposed(SAME, NONE), f.TransposedConv2d, q.QSpread),
    "transposed, valid": (_transposed(VALID, RELU), f.TransposedConv2d, q.QSpread),
    "softmax": (_softmax, f.Softmax, q.QSoftmax),
}


def run_litert(data: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_is_what_litert_computes(dtype: str, case: str, tmp_path: Path) -> None:
    build, float_kind, integer_kind = CASES[case]
    net = Net(dtype)
    build(net)
    path = tmp_path / "net.tflite"
    path.write_bytes(net.file.bytes())
    rng = np.random.default_rng(1)
    if dtype == "float32":
        graph = tflite.load_float(path)
        x = rng.normal(0, 1, (6, 7, 3)).astype(np.float32)
        got = floating.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
        np.testing.assert_allclose(got, run_litert(net.file.bytes(), x), atol=1e-4)
        assert any(isinstance(n, float_kind) for n in graph)
        return
    graph = quantized.load(path)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, (6, 7, 3)).astype(dtype)
    got = integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
    want = run_litert(net.file.bytes(), x)
    assert len(np.unique(want)) > 20
    np.testing.assert_array_equal(got, want)
    assert any(isinstance(n, integer_kind) for n in graph)


def _steps(net: Net) -> None:
    operands = (net.x, net.integers(0, 0, 0, 0), net.integers(1, 6, 7, 4), net.integers(1, 2, 1, 1))
    net.finish(net.file.operator("STRIDED_SLICE", operands, net.value((1, 3, 7, 4)), "StridedSliceOptions"))


def _outside(net: Net) -> None:
    operands = (net.x, net.integers(0, 4, 0, 0), net.integers(1, 3, 7, 4))
    net.finish(net.file.operator("SLICE", operands, net.value((1, 3, 7, 4)), "SliceOptions"))


def _elu(net: Net) -> None:
    net.finish(net.file.operator("ELU", (net.x,), net.value(SHAPE)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_steps, "operator 1 (STRIDED_SLICE): steps of [1, 2, 1, 1]"),
        (_outside, "operator 1 (SLICE): takes [0, 4, 0, 0] to [1, 7, 7, 4]"),
        (lambda net: _padv2(net, 1.0), "operator 1 (PADV2): pads with something else than zero"),
        (lambda net: _softmax(net, 0.5), "operator 1 (SOFTMAX): has a beta of 0.5; 1 is supported"),
        (_elu, "operator 1 (ELU): is not supported; supported are ADD, "),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_what_is_not_supported_is_named(
    dtype: str, build: Callable[[Net], None], message: str, tmp_path: Path
) -> None:
    net = Net(dtype)
    build(net)
    path = tmp_path / "net.tflite"
    path.write_bytes(net.file.bytes())
    with pytest.raises(Mnv3cError) as caught:
        (tflite.load_float if dtype == "float32" else quantized.load)(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
