"""The integer executor: onnxruntime for the sums, exact arithmetic by hand for the rest."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Tensor
from mnv3c.reference import integer
from mnv3c.reference.arithmetic import quantize_multiplier
from tests.graphs import Builder, random_inputs
from tests.reference.onnx_truth import convolve


def run_one(node: Node, dtype: str, *inputs: np.ndarray, zero_point: tuple[int, ...] = (0,)) -> np.ndarray:
    tensors = {
        n: Tensor(n, v.shape, str(v.dtype), Quant((1.0,), zero_point))
        for n, v in zip(node.inputs, inputs, strict=True)
    }
    tensors[node.output] = Tensor(node.output, (1, 1, 1), dtype)
    graph = Graph("one", (node,), tensors, node.inputs, (node.output,))
    return integer.run(graph, dict(zip(node.inputs, inputs, strict=True)))[node.output]


def unit_requant(channels: int, scale: float = 1.0) -> q.Requant:
    multiplier, shift = quantize_multiplier(np.full(channels, scale))
    return q.Requant(multiplier, shift)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 0, 3)])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 2), (2, 2))])
def test_accumulators_equal_onnxruntime_on_the_centred_input(
    groups: int, pad: tuple[int, int, int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    """sum w * (x - z) with zero padding, computed by onnxruntime, is bias-folded sum w * x with padding z."""
    rng = np.random.default_rng(groups)
    outs = 6 if groups == 6 else 9
    zero_point = rng.integers(-128, 128, 6)
    x = rng.integers(-128, 128, (8, 9, 6)).astype(np.int8)
    weight = rng.integers(-127, 128, (outs, 3, 3, 6 // groups)).astype(np.int8)
    bias = rng.integers(-500, 500, outs).astype(np.int32)
    step = outs // groups
    folded = [
        int((weight[o].astype(int) * zero_point[o // step * (6 // groups) :][: 6 // groups]).sum())
        for o in range(outs)
    ]
    node = q.QConv(
        "c",
        ("x",),
        ("y",),
        weight,
        (bias - folded).astype(np.int32),
        unit_requant(outs),
        stride,
        pad,
        dilation,
        groups,
    )
    got = integer.accumulate(node, x, zero_point.astype(np.int8))
    want = convolve(x.astype(np.float32) - zero_point, weight, bias, stride, pad, dilation, groups)
    np.testing.assert_array_equal(got, want)


def test_wide_reduction_stays_exact() -> None:
    x = np.full((1, 1, 4096), -128, np.int8)
    weight = np.full((1, 1, 1, 4096), 127, np.int8)
    weight[..., -1] = 126
    node = q.QConv("c", ("x",), ("y",), weight, np.ones(1, np.int32), unit_requant(1))
    assert integer.accumulate(node, x, np.zeros(1, np.int8)).item() == -128 * (127 * 4095 + 126) + 1


@pytest.mark.parametrize(
    ("acc", "scale", "offset", "want"),
    [
        (10, 0.25, 0, 3),
        (-10, 0.25, 0, -2),
        (-11, 0.25, 0, -3),
        (100, 0.5, -60, -10),
        (90, 2.5, 0, 127),
        (400, 1.0, -300, 100),
    ],
)
def test_requantisation_by_hand(acc: int, scale: float, offset: int, want: int) -> None:
    r = unit_requant(1, scale)
    r = q.Requant(r.multiplier, r.shift, np.array([offset], np.int16))
    assert integer.requantize(np.array([acc]), r, "int8").item() == want


def test_clamp_is_applied_after_the_offset() -> None:
    r = q.Requant(unit_requant(1).multiplier, unit_requant(1).shift, np.array([5], np.int16), low=0, high=20)
    assert integer.requantize(np.array([[-9], [3], [90]]), r, "int8").ravel().tolist() == [0, 8, 20]


def exact_hard_swish(x: int, shift: int) -> Fraction:
    """x * relu6(x + 3) / 6, saturated at the range that the contract states."""
    value = Fraction(3 * 2**shift * x, 2**15)
    return min(value * min(max(value + 3, Fraction(0)), Fraction(6)) / 6, Fraction(3 * 2**shift, 2))


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_hard_swish_is_the_real_one_to_half_a_step(shift: int) -> None:
    # Every int16 value; the output's step is 1/32 and its zero point -100.
    x = np.arange(-32768, 32768).astype(np.int16).reshape(1, -1, 1)
    multiplier = round(3 * 2**shift / 2**16 * 32 * 32768)
    node = q.QHardSwish(
        "h", ("x",), ("y",), shift, np.array([multiplier], np.int16), np.array([-100], np.int16)
    )
    got = run_one(node, "int8", x)
    for value, out in list(zip(x.ravel().tolist(), got.ravel().tolist(), strict=True))[::97]:
        want = min(max(exact_hard_swish(value, shift) * 32 - 100, Fraction(-128)), Fraction(127))
        assert abs(out - want) <= Fraction(1, 2) + Fraction(1, 20), value


def test_hard_sigmoid() -> None:
    x = np.array([-32768, -16384, -16383, 0, 16383, 16384, 32767], np.int16).reshape(1, 1, -1)
    got = run_one(q.QHardSigmoid("h", ("x",), ("y",)), "int16", x)
    assert got.ravel().tolist() == [0, 0, 1, 16384, 32767, 32767, 32767]


def test_lut_is_indexed_from_minus_128() -> None:
    table = np.arange(-128, 128)[::-1].astype(np.int8)
    x = np.array([-128, 0, 127], np.int8).reshape(1, 1, 3)
    assert run_one(q.QLut("l", ("x",), ("y",), table), "int8", x).ravel().tolist() == [127, -1, -128]


def test_add_of_two_int8_by_exact_arithmetic() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-128, 128, (3, 4, 5)).astype(np.int8) for _ in range(2))
    node = q.QAdd("a", ("a", "b"), ("y",), (9000, 12345), 5, bias=-77)
    got = run_one(node, "int8", a, b)
    for x, y, out in zip(a.ravel().tolist(), b.ravel().tolist(), got.ravel().tolist(), strict=True):
        terms = [floor(Fraction(v * 256 * m, 2**15) + Fraction(1, 2)) for v, m in ((x, 9000), (y, 12345))]
        total = floor(Fraction(sum(terms) - 77, 32) + Fraction(1, 2))
        assert out == min(max(total, -128), 127)


def test_add_takes_int16_as_it_is() -> None:
    a = np.array([640, -640, 32767], np.int16).reshape(1, 1, 3)
    b = np.array([0, 0, 127], np.int8).reshape(1, 1, 3)
    got = run_one(q.QAdd("a", ("a", "b"), ("y",), (0, 8192), 6, low=-5), "int8", a, b)
    assert got.ravel().tolist() == [10, -5, 127]


def test_gate_by_exact_arithmetic() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-128, 128, (3, 4, 5)).astype(np.int8)
    gate = rng.integers(0, 32768, (1, 1, 5)).astype(np.int16)
    factor, zero = rng.integers(8000, 32768, 5).astype(np.int16), rng.integers(-128, 128, 5).astype(np.int16)
    got = run_one(q.QGate("g", ("x", "g"), ("y",), factor, zero, 1, 9), "int8", x, gate)
    for c in range(5):
        combined = floor(Fraction(int(gate[0, 0, c]) * int(factor[c]), 2**15) + Fraction(1, 2))
        for value, out in zip(x[..., c].ravel().tolist(), got[..., c].ravel().tolist(), strict=True):
            want = floor(Fraction((value - int(zero[c])) * 2 * combined, 2**15) + Fraction(1, 2)) + 9
            assert out == min(max(want, -128), 127)


def test_pool_is_the_rounded_mean() -> None:
    b = Builder(5)
    x = b.input(7, 5, 3)
    graph = b.finish(b.channel_sum(x))
    value = random_inputs(graph)[x]
    total = integer.run(graph, {x: value})[graph.outputs[0]]
    np.testing.assert_array_equal(total.ravel(), value.astype(int).sum(axis=(0, 1)))
    node = q.Requantize("r", ("s",), ("y",), np.zeros(3, np.int32), unit_requant(3, 1 / 35))
    mean = run_one(node, "int8", total)
    np.testing.assert_allclose(mean.ravel(), value.mean(axis=(0, 1)), atol=0.5001)


def test_max_pool_ignores_padding() -> None:
    x = np.full((3, 3, 1), -100, np.int8)
    node = q.QMaxPool("p", ("x",), ("y",), (3, 3), (2, 2), (1, 1, 1, 1))
    assert (run_one(node, "int8", x) == -100).all()


def test_quantize_rounds_halves_to_even_and_takes_any_float() -> None:
    x = np.array([0.5, 1.5, -0.5, -1.5, 2.4, np.nan, np.inf, -np.inf, 1e30], np.float32).reshape(1, 1, -1)
    got = run_one(q.Quantize("q", ("x",), ("y",), (1.0,), (3,)), "int8", x)
    assert got.ravel().tolist() == [3, 5, 3, 1, 5, 3, 127, -128, 127]


def test_doors() -> None:
    x = np.array([0, 127, 128, 255], np.uint8).reshape(1, 1, 4)
    assert run_one(q.FlipSign("f", ("x",), ("y",)), "int8", x).ravel().tolist() == [-128, -1, 0, 127]
    y = np.array([-128, 3, 127], np.int8).reshape(1, 1, 3)
    got = run_one(q.Dequantize("d", ("x",), ("y",), (0.5,), (3,)), "float32", y)
    assert got.ravel().tolist() == [-65.5, 0.0, 62.0]


def test_wrong_input_is_named() -> None:
    graph = Graph("g", (), {"x": Tensor("x", (2, 2, 3), "int8")}, ("x",), ("x",))
    with pytest.raises(ValueError, match="input x must be int8"):
        integer.run(graph, {"x": np.zeros((2, 2, 3), np.uint8)})
