"""Quantised TFLite against LiteRT, value by value."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized
from mnv3c.frontend.quantized.values import Affine
from mnv3c.frontend.tflite import arithmetic
from mnv3c.ir import int_ops as q
from mnv3c.reference import integer
from tests.tflite_files import NONE, RELU, RELU6, SAME, VALID, File, small_network

litert = pytest.importorskip("ai_edge_litert.interpreter")

DEFAULT = litert.OpResolverType.BUILTIN
REFERENCE = litert.OpResolverType.BUILTIN_REF


def run_litert(data: bytes, x: np.ndarray, engine=DEFAULT) -> np.ndarray:
    interpreter = litert.Interpreter(model_content=data, experimental_op_resolver_type=engine)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


def load(file: File, folder: Path, **options):
    path = folder / "model.tflite"
    path.write_bytes(file.bytes())
    return quantized.load(path, **options)


def run_ours(graph, x: np.ndarray) -> np.ndarray:
    return integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]


def random_input(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype, per_channel", [("int8", True), ("int8", False), ("uint8", False)])
@pytest.mark.parametrize("seed", range(4))
def test_network_equals_litert(tmp_path, dtype, per_channel, seed):
    file = small_network(dtype, seed, per_channel)
    file.operators.pop()  # the softmax, which we leave out
    file.outputs = [file.operators[-1].outputs[0]]
    graph = load(file, tmp_path)
    assert graph.tensor(graph.inputs[0]).dtype == graph.tensor(graph.outputs[0]).dtype == dtype
    for i in range(3):
        x = random_input(dtype, (14, 14, 3), i)
        assert run_ours(graph, x).ravel().tolist() == run_litert(file.bytes(), x).tolist()


def test_softmax_is_left_out_with_a_note(tmp_path):
    file = small_network("uint8")
    graph = load(file, tmp_path)
    x = random_input("uint8", (14, 14, 3))
    assert run_ours(graph, x).argmax() == run_litert(file.bytes(), x).argmax()
    assert graph.outputs[0].endswith("_logits")
    assert any("softmax" in note for note in graph.meta["notes"])
    assert graph.meta["sha256"] == hashlib.sha256(file.bytes()).hexdigest()


def test_wide_weights_are_kept_or_rounded(tmp_path):
    file = small_network("uint8", seed=3)
    exact, rounded = load(file, tmp_path), load(file, tmp_path, round_weights=True)
    dtypes = [{n.weight.dtype for n in g if isinstance(n, q.QConv)} for g in (exact, rounded)]
    assert np.dtype(np.int16) in dtypes[0] and dtypes[1] == {np.dtype(np.int8)}
    x = random_input("uint8", (14, 14, 3))
    difference = run_ours(exact, x).astype(int) - run_ours(rounded, x)
    assert 0 < np.abs(difference).max() < 12


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ref_path_equals_reference(tmp_path, dtype):
    from mnv3c.codegen.library import build_library
    from mnv3c.codegen.write import write_folder
    from mnv3c.runners.host import HostRunner
    from mnv3c.runners.library import open_library

    graph = load(small_network(dtype), tmp_path)
    write_folder(tmp_path / "library", build_library(graph, ["ref"]).files)
    runner = HostRunner(open_library(tmp_path / "library"), parallel=True)
    for i in range(4):
        x = random_input(dtype, (14, 14, 3), i)
        assert np.array_equal(runner.run([x])[0], run_ours(graph, x))
    runner.close()


def one_convolution(
    size: int, kernel: int, stride: int, padding: int, activation: int, depthwise: bool
) -> File:
    f = File()
    rng = np.random.default_rng(size * 100 + kernel * 10 + stride)
    x = f.tensor((1, size, size, 4), "int8", 0.02, -7)
    shape = (1, kernel, kernel, 4) if depthwise else (6, kernel, kernel, 4)
    out = 4 if depthwise else 6
    scale = rng.uniform(0.002, 0.01, out)
    weight = f.tensor(shape, "int8", scale, None, rng.integers(-127, 128, shape), axis=3 if depthwise else 0)
    bias = f.tensor((out,), "int32", 0.02 * scale, None, rng.integers(-5000, 5000, out))
    side = -(-size // stride) if padding == SAME else (size - kernel) // stride + 1
    y = f.tensor((1, side, side, out), "int8", 0.03, 11)
    options = f.window(stride, padding, activation)
    if depthwise:
        options["depthMultiplier"] = 1
    name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    f.inputs, f.outputs = [x], [f.operator(name, (x, weight, bias), y, kind, 3, **options)]
    return f


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    "size, kernel, stride", [(8, 3, 2), (7, 3, 2), (8, 5, 2), (9, 5, 1), (6, 1, 1), (6, 1, 2)]
)
@pytest.mark.parametrize("padding, activation", [(SAME, NONE), (SAME, RELU6), (VALID, RELU)])
def test_convolution(tmp_path, depthwise, size, kernel, stride, padding, activation):
    file = one_convolution(size, kernel, stride, padding, activation, depthwise)
    x = random_input("int8", (size, size, 4))
    assert np.array_equal(run_ours(load(file, tmp_path), x), run_litert(file.bytes(), x))


def test_asymmetric_same_padding(tmp_path):
    graph = load(one_convolution(8, 5, 2, SAME, NONE, True), tmp_path)
    assert next(n for n in graph if isinstance(n, q.QConv)).pad == (1, 1, 2, 2)


def elementwise(
    name: str, dtype: str, in_q, out_q, constant=None, options=None, swap=False, **fields
) -> File:
    f = File()
    x = f.tensor((1, 1, 1, 256), dtype, *in_q)
    y = f.tensor((1, 1, 1, 256), dtype, *out_q)
    inputs = [x]
    if constant is not None:
        scale, zero_point, value = constant
        inputs.append(f.tensor((), dtype, scale, zero_point, value))
    f.inputs, f.outputs = [x], [f.operator(name, inputs[::-1] if swap else inputs, y, options, 2, **fields)]
    if name == "HARD_SWISH":
        f.codes[-1].version = 1
    return f


def every_value(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).astype(dtype).reshape(1, 1, 256)


SCALES = [
    ((0.29, 99), (0.173, 2)),
    ((0.05, 170), (0.0195, 19)),
    ((1.2, 130), (0.4, 1)),
    ((0.02, 128), (0.011, 20)),
]


@pytest.mark.parametrize("in_q, out_q", SCALES)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_hard_swish_table_is_litert_s(tmp_path, dtype, in_q, out_q):
    shift = 128 if dtype == "int8" else 0
    file = elementwise("HARD_SWISH", dtype, (in_q[0], in_q[1] - shift), (out_q[0], out_q[1] - shift))
    x = every_value(dtype)
    want = run_litert(file.bytes(), x, REFERENCE)
    assert run_ours(load(file, tmp_path), x).tolist() == want.tolist()
    x_affine, y_affine = (
        Affine(np.float32(in_q[0]), in_q[1] - 128),
        Affine(np.float32(out_q[0]), out_q[1] - 128),
    )
    table = arithmetic.hard_swish(x_affine, y_affine).astype(int) + 128 - shift
    assert table.tolist() == want.ravel().tolist()


CONSTANT_CASES = [
    ("ADD", (0.0342, -30), (6 / 255, -128), (3 / 127, 0, 127), RELU6),
    ("MUL", (6 / 255, -128), (1 / 255, -128), (1 / (6 * 127), 0, 127), NONE),
    ("MUL", (1 / 255, -128), (2 / 255, -128), (2 / 255, -128, 127), NONE),
    ("SUB", (2 / 255, -128), (2 / 255, 0), (1 / 255, -128, 127), NONE),
    ("ADD", (0.11, 7), (0.09, -3), (0.05, 3, -90), RELU),
]


@pytest.mark.parametrize("name, in_q, out_q, constant, activation", CONSTANT_CASES)
def test_constant_operand_is_litert_s(tmp_path, name, in_q, out_q, constant, activation):
    kind = f"{name.capitalize()}Options"
    file = elementwise(name, "int8", in_q, out_q, constant, kind, fusedActivationFunction=activation)
    x = every_value("int8")
    assert run_ours(load(file, tmp_path), x).tolist() == run_litert(file.bytes(), x, REFERENCE).tolist()


@pytest.mark.parametrize("name", ["RELU", "RELU6", "LOGISTIC"])
def test_activation_of_its_own(tmp_path, name):
    out_q = (1 / 256, -128) if name == "LOGISTIC" else (0.03, -100)
    file = elementwise(name, "int8", (0.05, -10), out_q)
    x = every_value("int8")
    got, want = run_ours(load(file, tmp_path), x).astype(int), run_litert(file.bytes(), x, REFERENCE)
    assert np.abs(got - want).max() <= (1 if name == "LOGISTIC" else 0)


def test_float_doors(tmp_path):
    f = File()
    x = f.tensor((1, 1, 1, 8), "float32", name="image")
    a = f.tensor((1, 1, 1, 8), "int8", 0.02, -5)
    b = f.tensor((1, 1, 1, 8), "int8", 0.01, -120)
    y = f.tensor((1, 1, 1, 8), "float32")
    f.operator("QUANTIZE", (x,), a)
    f.operator("HARD_SWISH", (a,), b)
    f.inputs, f.outputs = [x], [f.operator("DEQUANTIZE", (b,), y, version=2)]
    graph = load(f, tmp_path)
    values = np.linspace(-3, 3, 8, dtype=np.float32).reshape(1, 1, 8)
    assert graph.inputs == ("image",)
    assert np.allclose(run_ours(graph, values), run_litert(f.bytes(), values, REFERENCE), atol=1e-6)


def test_fully_connected(tmp_path):
    f = File()
    rng = np.random.default_rng(5)
    x = f.tensor((1, 12), "int8", 0.02, 3)
    weight = f.tensor((5, 12), "int8", 0.01, 0, rng.integers(-127, 128, (5, 12)))
    bias = f.tensor((5,), "int32", 0.0002, 0, rng.integers(-900, 900, 5))
    y = f.tensor((1, 5), "int8", 0.02, -2)
    f.inputs = [x]
    f.outputs = [f.operator("FULLY_CONNECTED", (x, weight, bias), y, "FullyConnectedOptions", 4)]
    values = random_input("int8", (12,))
    got = run_ours(load(f, tmp_path), values.reshape(1, 1, 12)).ravel()
    assert got.tolist() == run_litert(f.bytes(), values).tolist()


def test_average_over_windows(tmp_path):
    f = File()
    x = f.tensor((1, 9, 9, 4), "uint8", 0.02, 3)
    y = f.tensor((1, 4, 4, 4), "uint8", 0.02, 3)
    options = {"filterHeight": 3, "filterWidth": 3, "strideH": 2, "strideW": 2, "padding": VALID}
    f.inputs, f.outputs = [x], [f.operator("AVERAGE_POOL_2D", (x,), y, "Pool2DOptions", **options)]
    values = random_input("uint8", (9, 9, 4))
    assert np.array_equal(run_ours(load(f, tmp_path), values), run_litert(f.bytes(), values))


def test_dead_channel_with_a_tiny_scale(tmp_path):
    """What quantisers write for a channel of zeros: a scale near nothing and a bias near 2**30."""
    file = one_convolution(6, 1, 1, SAME, NONE, False)
    weight, bias = file.operators[0].inputs[1:]
    values = np.random.default_rng(1).integers(-127, 128, (6, 1, 1, 4)).astype(np.int8)
    values[2] = 0
    file.buffers[file.tensors[weight].buffer].data = values.view(np.uint8).ravel()
    file.tensors[weight].quantization.scale[2] = 1e-9
    biases = np.array([100, -200, 2**30, 5, 6, 7], np.int32)
    file.buffers[file.tensors[bias].buffer].data = biases.view(np.uint8)
    x = random_input("int8", (6, 6, 4))
    assert np.array_equal(run_ours(load(file, tmp_path), x), run_litert(file.bytes(), x, REFERENCE))


def change(file: File, what) -> File:
    what(file)
    return file


def _set(file, operator, operand, **quantization):
    index = file.operators[operator].inputs[operand]
    for key, value in quantization.items():
        setattr(file.tensors[index].quantization, key, value)


def _drop_quantization(file, tensor):
    file.tensors[tensor].quantization = None


BAD = {
    "zero point 300": lambda f: setattr(f.tensors[3].quantization, "zeroPoint", [300]),
    "has no scale": lambda f: _drop_quantization(f, 3),
    "weight without a scale": lambda f: _drop_quantization(f, 1),
    "scale of 0": lambda f: _set(f, 0, 0, scale=np.zeros(1, np.float32)),
    "scale of nan": lambda f: _set(f, 0, 0, scale=np.full(1, np.nan, np.float32)),
    "scale of -1": lambda f: _set(f, 0, 0, scale=np.full(1, -1, np.float32)),
    "is int16": lambda f: setattr(f.tensors[0], "type", 7),
    "dynamic-range": lambda f: setattr(f.tensors[0], "type", 0),
    "version 99": lambda f: setattr(f.codes[0], "version", 99),
    r"operator 0 \(GATHER\): is not supported; supported are ADD": lambda f: setattr(
        f.codes[0], "deprecatedBuiltinCode", 36
    ),
    "lacks its options": lambda f: setattr(f.operators[0], "builtinOptions", None),
    "padding 7": lambda f: setattr(f.operators[0].builtinOptions, "padding", 7),
    "fused activation 4": lambda f: setattr(f.operators[0].builtinOptions, "fusedActivationFunction", 4),
    "stride": lambda f: setattr(f.operators[0].builtinOptions, "strideH", 0),
    "not a constant": lambda f: setattr(f.tensors[1], "buffer", 0),
    "bytes of data": lambda f: setattr(f.tensors[1], "shape", [6, 3, 3, 5]),
    "its output": lambda f: setattr(f.tensors[3], "shape", [1, 5, 4, 6]),
    "too large": lambda f: setattr(f.tensors[0], "shape", [1, 100000, 100000, 4]),
    "not positive": lambda f: setattr(f.tensors[0], "shape", [1, -1, -1, 4]),
    "damaged TFLite": lambda f: setattr(f.operators[0], "inputs", [0, 1, 77]),
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_files_are_named(tmp_path, message):
    file = change(one_convolution(8, 3, 2, SAME, NONE, False), BAD[message])
    with pytest.raises(Mnv3cError, match=message) as caught:
        load(file, tmp_path)
    assert "model.tflite" in str(caught.value) and "\n" not in str(caught.value)


def test_not_a_model(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(Mnv3cError, match="not a TFLite file"):
        quantized.load(path)
    with pytest.raises(Mnv3cError, match="cannot read"):
        quantized.is_quantized(tmp_path / "absent.tflite")


def test_truncated(tmp_path):
    data = small_network("int8").bytes()
    path = tmp_path / "x.tflite"
    for size in (8, 100, 1000, len(data) - 50):
        path.write_bytes(data[:size])
        with pytest.raises(Mnv3cError):
            quantized.load(path)


def test_is_quantized(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(small_network("uint8").bytes())
    assert quantized.is_quantized(path)


@pytest.mark.parametrize(
    ("size", "scale_in", "zero_in", "scale_out", "zero_out"),
    [
        (14, 0.11622478067874908, -125, 0.015172461047768593, -103),
        (14, 0.05442344397306442, -121, 0.010867767035961151, -94),
        (14, 0.05140123888850212, -121, 0.00878940150141716, -87),
    ],
)
def test_mean_of_the_built_in_kernels(tmp_path, size, scale_in, zero_in, scale_out, zero_out):
    """Every sum that does not reach the end of the result, at scales of a trained network.

    TFLite makes the multiplier in float32, which shows in few of them.
    """
    count = size * size
    channels = int((127 - zero_out) * scale_out / scale_in * count)
    file = File()
    x = file.tensor((1, size, size, channels), "int8", scale_in, zero_in)
    axes = file.tensor((2,), "int32", data=[1, 2])
    out = file.tensor((1, 1, 1, channels), "int8", scale_out, zero_out)
    file.inputs = [x]
    file.outputs = [file.operator("MEAN", (x, axes), out, "ReducerOptions", keepDims=True)]
    path = tmp_path / "mean.tflite"
    path.write_bytes(file.bytes())
    sums = np.arange(channels)
    values = zero_in + sums // count + (np.arange(count)[:, None] < sums % count)
    values = values.reshape(size, size, channels).astype(np.int8)
    want = run_litert(file.bytes(), values, litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    assert np.array_equal(run_ours(quantized.load(path, round_twice=True), values).ravel(), want.ravel())
