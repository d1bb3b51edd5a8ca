"""The NumPy meaning of operators that move pixels: onnxruntime for floats, exact fractions for integers."""

from __future__ import annotations

from fractions import Fraction
from math import exp, floor

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.verify import InvalidGraph, verify
from mnv3c.quant.spatial import SIGMOID_TABLE
from mnv3c.reference import floating, integer
from tests.spatial.graphs import every_operator

ROUNDINGS = {
    "floor": "floor",
    "ceil": "ceil",
    "half_down": "round_prefer_floor",
    "half_up": "round_prefer_ceil",
}


def run_onnx(op: str, x: np.ndarray, *constants: np.ndarray | None, **attributes: object) -> np.ndarray:
    """One ONNX operator on an ``(H, W, C)`` array, by onnxruntime."""
    names = ["x", *("" if c is None else f"c{i}" for i, c in enumerate(constants))]
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, x.shape[2], *x.shape[:2]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(constants) if c is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)


def run_float(node: Node, x: np.ndarray, shape: Shape) -> np.ndarray:
    tensors = {"x": Tensor("x", x.shape), "y": Tensor("y", shape)}  # type: ignore[arg-type]
    graph = verify(Graph("one", (node,), tensors, ("x",), ("y",)))
    return floating.run(graph, {"x": x})["y"]


def run_integer(node: Node, dtype: str, shape: Shape, *inputs: np.ndarray) -> np.ndarray:
    quant = Quant((0.1,), (3 if dtype == "int8" else 0,))
    tensors = {n: Tensor(n, v.shape, str(v.dtype), quant) for n, v in zip(node.inputs, inputs, strict=True)}
    tensors["y"] = Tensor("y", shape, dtype, quant)
    graph = verify(Graph("one", (node,), tensors, node.inputs, ("y",)))
    return integer.run(graph, dict(zip(node.inputs, inputs, strict=True)))["y"]


SIZES = [((2, 2), (17, 33)), ((5, 7), (10, 14)), ((9, 4), (3, 9)), ((1, 6), (4, 1)), ((6, 6), (6, 6))]


@pytest.mark.parametrize("coordinates", ["align_corners", "half_pixel", "asymmetric"])
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_bilinear_is_onnxruntimes(size: tuple[int, int], out: tuple[int, int], coordinates: str) -> None:
    x = np.random.default_rng(0).normal(0, 1, (*size, 3)).astype(np.float32)
    sizes = np.asarray([1, 3, *out], np.int64)
    want = run_onnx("Resize", x, None, None, sizes, mode="linear", coordinate_transformation_mode=coordinates)
    got = run_float(f.Resize("r", ("x",), ("y",), "bilinear", coordinates), x, (*out, 3))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", ["align_corners", "half_pixel", "asymmetric"])
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_nearest_is_onnxruntimes(
    size: tuple[int, int], out: tuple[int, int], coordinates: str, rounding: str
) -> None:
    x = np.random.default_rng(0).normal(0, 1, (*size, 2)).astype(np.float32)
    want = run_onnx(
        "Resize",
        x,
        None,
        None,
        np.asarray([1, 2, *out], np.int64),
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=ROUNDINGS[rounding],
    )
    got = run_float(f.Resize("r", ("x",), ("y",), "nearest", coordinates, rounding), x, (*out, 2))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 11), ("int16", 7)])
def test_integer_bilinear_by_fractions(dtype: str, bits: int) -> None:
    """Corners aligned: pixel i of 9 over 4 lies at i * 3 / 8, its weight is rounded to so many bits."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(info.min, info.max + 1, (4, 4, 1)).astype(dtype)
    node = q.QResize("r", ("x",), ("y",), "bilinear", "align_corners", bits=bits)
    got = run_integer(node, dtype, (9, 9, 1), x)
    for i in range(9):
        for j in range(9):
            (top, v), (left, u) = (divmod(Fraction(3 * n, 8), 1) for n in (i, j))
            v, u = (Fraction(floor(w * 2**bits + Fraction(1, 2)), 2**bits) for w in (v, u))
            bottom, right = min(top + 1, 3), min(left + 1, 3)
            exact = (1 - v) * ((1 - u) * int(x[top, left, 0]) + u * int(x[top, right, 0]))
            exact += v * ((1 - u) * int(x[bottom, left, 0]) + u * int(x[bottom, right, 0]))
            assert got[i, j, 0] == floor(exact + Fraction(1, 2))


def test_integer_extremes_do_not_overflow() -> None:
    """Alternating extremes: every value stays between its neighbours."""
    x = np.where(np.indices((3, 3)).sum(axis=0) % 2, 32767, -32768).astype(np.int16)[..., None]
    for coordinates in ("align_corners", "half_pixel"):
        node = q.QResize("r", ("x",), ("y",), "bilinear", coordinates, bits=7)
        got = run_integer(node, "int16", (31, 29, 1), x)
        want = run_float(
            f.Resize("r", ("x",), ("y",), "bilinear", coordinates), x.astype(np.float32), (31, 29, 1)
        )
        assert np.abs(got - want).max() < 2 * 65536 / 2**7


@pytest.mark.parametrize("include", [False, True])
def test_average_pool_is_onnxruntimes(include: bool) -> None:
    """Padded windows too: integers within half a step of onnxruntime's average of the real values."""
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, (11, 9, 4)).astype(np.int8)
    kernel, stride, pad = (4, 3), (3, 2), (1, 2, 2, 1)
    want = run_onnx(
        "AveragePool",
        (x - np.float32(3)) * np.float32(0.1),
        kernel_shape=kernel,
        strides=stride,
        pads=pad,
        count_include_pad=int(include),
    )
    area = kernel[0] * kernel[1]
    multiplier = np.full(4, round(2**31 / area), np.int32)
    node = q.QAveragePool(
        "p", ("x",), ("y",), kernel, stride, np.zeros(4, np.int32), q.Requant(multiplier), pad, include
    )
    got = run_integer(node, "int8", want.shape, x)
    assert np.abs((got - 3) * 0.1 - want).max() <= 0.0501 + 0.1 / area


def test_window_mean_rounds_halves() -> None:
    x = np.asarray([-3, -2, -1, 0, 1, 2], np.int8).reshape(1, 6, 1)
    for away, want in ((False, [-2, -1, 0, 1, 2]), (True, [-3, -2, -1, 1, 2])):
        node = q.QWindowMean("p", ("x",), ("y",), (1, 2), (1, 1), away=away)
        assert run_integer(node, "int8", (1, 5, 1), x).ravel().tolist() == want


def test_sigmoid_is_within_two_steps_of_the_real_one() -> None:
    x = np.arange(-32768, 32768).astype(np.int16).reshape(1, -1, 1)
    got = run_integer(q.QSigmoid("s", ("x",), ("y",), SIGMOID_TABLE), "int16", x.shape, x).ravel()
    real = 2**15 / (1.0 + np.exp(-x.ravel().astype(np.float64) / 2**12))
    assert np.abs(got - real).max() < 4
    assert bool((np.diff(got) >= 0).all()) and got[32768] == 16384
    assert SIGMOID_TABLE[129] == round(2**15 / (1 + exp(-1 / 16)))


def test_argmax_takes_the_first_of_equals() -> None:
    x = np.asarray([[[3, 7, 7], [-5, -5, -9]]], np.int8)
    got = run_integer(q.QArgMax("a", ("x",), ("y",)), "uint8", (1, 2, 1), x)
    assert got.ravel().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("stride", "pad"), [((2, 2), (1, 1, 1, 1)), ((1, 3), (0, 2, 1, 0)), ((2, 1), (0, 0, 0, 0))]
)
def test_transposed_convolution_is_onnxruntimes(
    stride: tuple[int, int], pad: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(4)
    x, weight = rng.normal(0, 1, (5, 4, 3)).astype(np.float32), rng.normal(0, 1, (2, 3, 4, 3))
    weight, bias = weight.astype(np.float32), rng.normal(0, 1, 2).astype(np.float32)
    kernel = np.ascontiguousarray(weight.transpose(3, 0, 1, 2))
    want = run_onnx("ConvTranspose", x, kernel, bias, strides=stride, pads=pad)
    node = f.TransposedConv2d("t", ("x",), ("y",), weight, bias, stride, pad)
    np.testing.assert_allclose(run_float(node, x, want.shape), want, atol=1e-4)


def test_moves_by_hand() -> None:
    x = np.arange(12, dtype=np.int8).reshape(2, 3, 2)
    part = run_integer(q.QSlice("s", ("x",), ("y",), (0, 1, 1)), "int8", (2, 2, 1), x)
    assert part.ravel().tolist() == [3, 5, 9, 11]
    apart = run_integer(
        q.QSpread("p", ("x",), ("y",), (2, 1), (0, 1, 0, 0)), "int8", (3, 4, 2), x
    )  # the tests' zero point is 3
    assert apart[1].ravel().tolist() == [3] * 8 and apart[:, 0].ravel().tolist() == [3] * 6
    np.testing.assert_array_equal(apart[::2, 1:], x)
    joined = run_integer(q.QConcat("c", ("a", "b"), ("y",), 2), "int8", (2, 3, 4), x, x + 20)
    assert joined[1, 2].tolist() == [10, 11, 30, 31]


@pytest.mark.parametrize("seed", range(4))
def test_verifier_catches_a_wrong_shape(seed: int) -> None:
    graph = every_operator(seed)
    for node in graph.nodes:
        wrong = dict(graph.tensors)
        shape = wrong[node.output].shape
        if isinstance(node, q.QResize):
            shape = (shape[0], shape[1], shape[2] + 1)
        else:
            shape = (shape[0] + 40, shape[1], shape[2])
        wrong[node.output] = Tensor(node.output, shape, wrong[node.output].dtype, Quant((0.1,)))
        with pytest.raises(InvalidGraph):
            verify(graph.replace(tensors=wrong))
