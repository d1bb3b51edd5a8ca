"""The exported ONNX model in onnxruntime gives the integers of the NumPy reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.ir.int_ops import QConv, QSigmoid
from mnv3c.quant import quantize
from mnv3c.quant.export_onnx import save, to_onnx
from mnv3c.quant.spatial import SIGMOID_TABLE
from mnv3c.reference import integer as reference
from mnv3c.verification.inputs import real
from tests.codegen.networks import classifier, doors
from tests.graphs import Builder
from tests.paths.broadcasts import graph as broadcasting
from tests.quant.networks import block_network, inputs
from tests.spatial.test_softmax import softmaxes

onnxruntime = pytest.importorskip("onnxruntime")


def compare(graph: Graph, seed: int, optimise: bool = True) -> int:
    """Every output, in every bit; returns how many different values there were."""
    rng = np.random.default_rng(seed)
    values = {}
    for name in graph.inputs:
        t = graph.tensor(name)
        if t.dtype == "float32":
            values[name] = rng.normal(0, 2, t.shape).astype(np.float32)
        else:
            limits = np.iinfo(t.dtype)
            values[name] = rng.integers(limits.min, limits.max, t.shape, t.dtype, endpoint=True)
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        to_onnx(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {}
    for given, name in zip(session.get_inputs(), graph.inputs, strict=True):
        t = graph.tensor(name)
        array = real(t, values[name]) if t.dtype in ("int8", "int16") else values[name]
        feed[given.name] = np.ascontiguousarray(array.transpose(2, 0, 1)[None])
    wanted = reference.run(graph, values)
    different = 0
    for got, name in zip(session.run(None, feed), graph.outputs, strict=True):
        t = graph.tensor(name)
        want = real(t, wanted[name]) if t.dtype in ("int8", "int16") else wanted[name]
        np.testing.assert_allclose(got[0].transpose(1, 2, 0), want, rtol=1e-6, atol=0)
        different += len(np.unique(want))
    return different


@pytest.mark.parametrize("optimise", [True, False])
def test_random_integer_networks(optimise: bool) -> None:
    assert sum(compare(classifier(seed=seed), seed, optimise) for seed in range(4)) > 20
    compare(doors(), 1, optimise)


@pytest.mark.parametrize("input_dtype", ["int8", "uint8", "float32"])
def test_what_the_quantiser_makes(input_dtype: str) -> None:
    for seed in range(3):
        graph = block_network(seed)
        quantized = quantize(graph, inputs(graph, 3, seed), input_dtype=input_dtype)
        assert compare(quantized, seed) > 5


def test_sums_and_products_that_broadcast() -> None:
    for seed in range(3):
        assert compare(broadcasting((3, 4, 5), seed), seed) > 50


def test_sigmoid() -> None:
    b = Builder(2)
    x = b.input(16, 16, 256, dtype="int16")
    b.tensors["y"] = Tensor("y", (16, 16, 256), "int16", Quant((2.0**-15,)))
    b.nodes.append(QSigmoid("sigmoid", (x,), ("y",), SIGMOID_TABLE))
    assert compare(b.finish("y"), 0) > 5000


def test_softmax() -> None:
    for seed in range(3):
        assert compare(softmaxes(), seed) > 50


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError, match="missing"):
        save(classifier(), tmp_path / "missing" / "net.onnx")


def test_layers_too_wide_for_float32_are_summed_in_parts() -> None:
    b = Builder(3)
    graph = b.finish(b.conv(b.input(2, 2, 1200), 5, dtype="int16"))
    node = graph.nodes[0]
    assert isinstance(node, QConv)
    rng = np.random.default_rng(0)
    weight = rng.integers(90, 128, node.weight.shape).astype(np.int8)
    graph = graph.replace(nodes=(replace(node, weight=weight),))
    assert [n.op_type for n in to_onnx(graph).graph.node].count("Conv") > 1
    assert compare(graph, 7) > 5
