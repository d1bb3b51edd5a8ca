"""Input and output dtypes, and how normalisations compose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization, random_inputs
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.quant import quantize
from mnv3c.quant.state import signal_to_noise
from mnv3c.reference import floating, integer

from .networks import block_network, inputs

AFFINE = {"scale": [2.0, 2.0, 2.0], "shift": [-1.0, -1.0, -1.0]}
IMAGENET = Normalization.from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network(affine: dict[str, list[float]] | None) -> Graph:
    graph = block_network(5)
    return dataclasses.replace(graph, meta={"input_affine": affine} if affine else {})


def test_from_mean_std_tells_bytes_from_unit_range() -> None:
    x = np.asarray([[0.0, 127.5, 255.0]])
    np.testing.assert_allclose(Normalization.from_mean_std((127.5,), (127.5,)).apply(x), [[-1, 0, 1]])
    np.testing.assert_allclose(Normalization.from_mean_std((0.5,), (0.5,)).apply(x), [[-1, 0, 1]], atol=1e-7)
    np.testing.assert_allclose(Normalization.from_mean_std((0.0,), (1.0,)).apply(x), [[0, 0.5, 1]])
    pixel = np.asarray([[10.0, 20.0, 30.0]])
    want = (pixel / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(IMAGENET.apply(pixel), want, rtol=1e-5)
    np.testing.assert_allclose(IMAGENET.undo(want), pixel)


def test_normalization_then_is_one_after_the_other() -> None:
    x = np.asarray([[3.0, 7.0, 200.0]])
    after = Normalization((2.0,), (-1.0,))
    np.testing.assert_allclose(IMAGENET.then(after).apply(x), after.apply(IMAGENET.apply(x)), rtol=1e-6)


@pytest.mark.parametrize(
    "mean,std", [((0.5,), (0.0,)), ((0.5, 0.5), (0.5,) * 3), ((np.nan,), (1.0,)), ((), ())]
)
def test_bad_normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(Mnv3cError):
        Normalization.from_mean_std(mean, std)


@pytest.mark.parametrize("affine", [None, AFFINE])
@pytest.mark.parametrize("normalization", [None, IMAGENET])
def test_three_inputs_give_one_answer(
    affine: dict[str, list[float]] | None, normalization: Normalization | None
) -> None:
    graph = network(affine)
    shape = graph.tensor("x").shape
    mapping = graph_normalization(graph, normalization)
    data = list(random_inputs(shape, 24, 3, mapping))
    pixels = np.rint(mapping.undo(random_inputs(shape, 1, 99, mapping)[0])).astype(np.uint8)
    x = mapping.apply(pixels)
    want = floating.run(graph, {"x": x})[graph.outputs[0]]
    user = normalization or Normalization(
        (1 / 255,) if affine else (1 / 127.5,), (0.0,) if affine else (-1.0,)
    )
    for dtype in ("int8", "uint8", "float32"):
        quantized = quantize(
            graph, data, input_dtype=dtype, normalization=normalization, output_dtype="float32"
        )
        tensor = quantized.tensor("x")
        assert tensor.dtype == dtype
        if dtype == "int8":
            assert tensor.quant is not None and tensor.quant.zero_point == (0,)
            raw = np.clip(np.rint(x / tensor.quant.scale[0]), -128, 127).astype(np.int8)
        else:
            raw = pixels if dtype == "uint8" else user.apply(pixels)
        got = integer.run(quantized, {"x": raw})[quantized.outputs[0]]
        assert got.dtype == np.float32
        assert signal_to_noise(want, got - want) > 17, dtype


def test_uint8_zero_point_is_the_byte_that_padding_reads() -> None:
    graph = network(None)
    mapping = graph_normalization(graph, IMAGENET)
    data = list(random_inputs(graph.tensor("x").shape, 8, 3, mapping))
    quantized = quantize(graph, data, input_dtype="uint8", normalization=IMAGENET)
    outer, inner = quantized.tensor("x").quant, quantized.tensor("x_int8").quant
    assert outer is not None and outer.zero_point == (124, 116, 104)
    assert inner is not None and inner.zero_point == (-4, -12, -24)
    assert isinstance(quantized.nodes[0], q.FlipSign)


@pytest.mark.parametrize("dtype,count", [("int16", 0), ("int8", 0), ("float32", 1)])
def test_output_dtypes(dtype: str, count: int) -> None:
    graph = network(None)
    quantized = quantize(graph, inputs(graph, 6, 0), output_dtype=dtype)
    assert quantized.outputs == graph.outputs
    assert quantized.tensor(quantized.outputs[0]).dtype == dtype
    assert sum(isinstance(n, q.Dequantize) for n in quantized.nodes) == count


def test_bytes_cannot_carry_a_falling_normalization() -> None:
    graph = network({"scale": [-1.0], "shift": [0.0]})
    with pytest.raises(Mnv3cError, match="increasing"):
        quantize(graph, inputs(graph, 2, 0), input_dtype="uint8")
