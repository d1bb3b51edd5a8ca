"""Operators that only imported models have, against exact rational arithmetic and in portable C."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.frontend.quantized.builder import Builder
from mnv3c.frontend.quantized.values import Affine, Window
from mnv3c.frontend.quantized.weights import to_int8
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.ir.verify import verify
from mnv3c.reference import integer
from mnv3c.runners.host import HostRunner
from mnv3c.runners.library import open_library

HALF = Fraction(1, 2)
A, B, Y = Affine(0.05129, -7), Affine(0.03721, 30), Affine(0.06013, -20)


def half_up(x: Fraction) -> int:
    return math.floor(x + HALF)


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


def clamp8(x: int) -> int:
    return min(max(x, -128), 127)


def build(how, twice: bool = False) -> Graph:
    builder = Builder(round_twice=twice)
    a = builder.input("a", (2, 128, 4), "int8", A)
    b = builder.input("b", (2, 128, 4), "int8", B)
    builder.output(how(builder, a, b), "int8", "y")
    return builder.finish("net", {})


def limits() -> dict:
    return {"low": -math.inf, "high": math.inf, "place": "here", "name": "y"}


def run(graph: Graph, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, (2, 128, 4)).astype(np.int8) for _ in range(2))
    return a, b, integer.run(graph, {"a": a, "b": b})[graph.outputs[0]]


def test_add_is_rounded_once():
    graph = build(lambda builder, a, b: builder.add(a, b, affine=Y, bits=22, **limits()))
    a, b, y = run(graph)
    ratios = [Fraction(float(np.float32(t.scale) / np.float32(Y.scale))) for t in (A, B)]
    for p, r, got in zip(a.ravel().tolist(), b.ravel().tolist(), y.ravel().tolist(), strict=True):
        exact = (p - A.zero_point) * ratios[0] + (r - B.zero_point) * ratios[1] + Y.zero_point
        if abs(exact - math.floor(exact) - HALF) > Fraction(1, 10000):
            assert got == clamp8(half_up(exact))


@pytest.mark.parametrize("twice", [False, True])
def test_product(twice):
    graph = build(lambda builder, a, b: builder.multiply(a, b, affine=Y, **limits()), twice)
    node = next(n for n in graph if isinstance(n, q.QMultiply))
    assert bool(node.right) == twice
    scale = Fraction(A.scale * B.scale / Y.scale)
    a, b, y = run(graph)
    for p, r, got in zip(a.ravel().tolist(), b.ravel().tolist(), y.ravel().tolist(), strict=True):
        product = (p - A.zero_point) * (r - B.zero_point)
        if twice:
            first = half_up(Fraction(product * node.multiplier, 2**31))
            want = half_away(Fraction(first, 2**node.right))
        else:
            exact = product * scale
            if abs(exact - math.floor(exact) - HALF) < Fraction(1, 1000):
                continue
            want = half_up(exact)
        assert got == clamp8(want + Y.zero_point)


def test_mean_rounds_halves_to_even_of_what_is_above_the_zero_point():
    node = q.QMean("m", ("s",), ("y",), count=4, zero_point=-3)
    quant = Quant((0.1,), (-3,))
    tensors = {"s": Tensor("s", (1, 1, 6), "int32"), "y": Tensor("y", (1, 1, 6), "int8", quant)}
    graph = verify(Graph("g", (node,), tensors, ("s",), ("y",)))
    sums = np.array([-10, -6, -2, 2, 7, -512], np.int32).reshape(1, 1, 6)
    # means -2.5, -1.5, -0.5, 0.5, 1.75, -128; above -3: 0.5, 1.5, 2.5, 3.5
    assert integer.run(graph, {"s": sums})["y"].ravel().tolist() == [-3, -1, -1, 1, 2, -128]


def test_second_rounding():
    requant = q.Requant(
        np.array([2**30, 2**30, 2**30], np.int32), right=np.array([0, 1, 3], np.int8), low=-128, high=127
    )
    acc = np.array([[5, 5, 23], [-5, -5, -24], [7, 6, 40]], np.int64)
    # first rounding: half of it, halves up: 3 3 12 / -2 -2 -12 / 4 3 20; then by 1, 2 and 8
    assert integer.requantize(acc, requant, "int8").tolist() == [[3, 2, 2], [-2, -1, -1], [4, 2, 3]]


def test_rounding_wide_weights_again():
    rng = np.random.default_rng(3)
    weight = rng.integers(-120, 121, (6, 3, 3, 4))
    weight[2, 0, 0, 0], weight[4, 1, 1, 1] = 190, -255
    narrow, scale, channels = to_int8(weight, np.full(6, 0.01))
    assert channels == 2 and np.abs(narrow.astype(int)).max() <= 127
    kept = [0, 1, 3, 5]
    assert np.array_equal(narrow[kept], weight[kept]) and (scale[kept] == 0.01).all()
    error = narrow * scale.reshape(-1, 1, 1, 1) / 0.01 - weight
    assert np.abs(error).max() <= 0.5 * 255 / 127 * 1.2 + 1.1
    # balanced: a constant input hardly sees the errors
    assert np.abs(error.sum(axis=(1, 2, 3))).max() <= 1.5


def everything(twice: bool) -> Graph:
    """One graph with every operator of this file, wide weights among them."""
    builder = Builder(round_twice=twice)
    rng = np.random.default_rng(1)
    x = builder.input("x", (7, 6, 5), "int8", A)
    conv = builder.conv(
        x,
        weight=rng.integers(-255, 256, (4, 3, 3, 5)),
        weight_scale=rng.uniform(0.001, 0.002, 4),
        bias=rng.integers(-5000, 5000, 4),
        window=Window((1, 1), (1, 1, 1, 1)),
        groups=1,
        affine=B,
        **limits(),
    )
    total = builder.add(conv, conv, affine=Y, **limits())
    pooled = builder.mean(total, affine=Y, halves="even", **limits())
    other = builder.mean(total, affine=B, zero_apart=True, **limits())
    gate = builder.multiply(pooled, other, affine=A, **limits())
    builder.output(builder.multiply(total, gate, affine=B, **limits()), "uint8", "y")
    return builder.finish("net", {})


@pytest.mark.parametrize("twice", [False, True])
def test_portable_c_equals_the_reference(tmp_path, twice):
    graph = everything(twice)
    kinds = {type(n) for n in graph}
    assert {q.QAdd32, q.QMultiply, q.QMean, q.Requantize} <= kinds
    write_folder(tmp_path / "net", build_library(graph, ["ref"]).files)
    runner = HostRunner(open_library(tmp_path / "net"), parallel=True)
    for seed in range(4):
        x = np.random.default_rng(seed).integers(-128, 128, (7, 6, 5)).astype(np.int8)
        want = integer.run(graph, {"x": x})[graph.outputs[0]]
        assert np.array_equal(runner.run([x])[0], want) and len(np.unique(want)) > 20
    runner.close()
