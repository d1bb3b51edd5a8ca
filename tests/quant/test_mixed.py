"""Tensors in 16 bits: every operator that writes or reads them, on every path, and how they are chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.ir.verify import InvalidGraph, verify
from mnv3c.quant import Options, mixed, quantize
from mnv3c.quant import file as quantized_file
from mnv3c.quant.groups import group
from mnv3c.quant.prepare import prepare, wide_tensors
from mnv3c.reference import integer as reference
from tests.paths.harness import check_graph
from tests.quant.networks import block_network, build, conv, inputs, swish

ALL = ("stem_act", "expand_act", "pool", "gated", "sum", "project2", "last_act", "pool2", "head_act")


def found(graph: Graph) -> tuple[str, ...]:
    source = prepare(graph)
    wide = wide_tensors(source, "int16")
    return mixed.candidates(source, group(source, wide), wide)


def adds() -> Graph:
    """Two projections that meet, a plain add, and an add of a pooled vector."""
    rng = np.random.default_rng(4)
    return build(
        (7, 6, 3),
        [
            conv(rng, "a", "x", 3, 8, 3),
            conv(rng, "b", "x", 3, 8),
            f.Add("ab", ("a", "b"), ("ab",)),
            conv(rng, "c", "ab", 8, 8, 3, depthwise=True),
            swish("c_act", "c"),
            f.Add("abc", ("c_act", "ab"), ("abc",)),
            f.GlobalAveragePool("pool", ("abc",), ("pool",)),
            conv(rng, "logits", "pool", 8, 5),
        ],
    )


def test_candidates_are_what_operators_can_write_and_read() -> None:
    assert found(block_network(3)) == ALL
    # Not: what ReLU makes, what the SE gate reads, gates, what a projection's add takes, logits.
    assert found(adds()) == ("a", "ab", "c_act", "abc", "pool")


def test_a_reader_whose_sums_would_leave_32_bits_keeps_8() -> None:
    ones = f.Conv2d("b", ("a",), ("b",), np.ones((4, 1, 1, 600), np.float32), np.zeros(4, np.float32))
    graph = build((3, 3, 2), [conv(np.random.default_rng(0), "a", "x", 2, 600), ones])
    assert found(graph) == ()


@pytest.mark.parametrize(
    "graph",
    [pytest.param(block_network(3), id="blocks", marks=pytest.mark.slow), pytest.param(adds(), id="adds")],
)
@pytest.mark.parametrize("path", ["ref", "neon", "dotprod", "i8mm"])
def test_every_path_computes_all_of_them(graph: Graph, path: str, tmp_path: Path) -> None:
    names = frozenset(found(graph))
    integer = quantize(graph, inputs(graph, 6, 1), raised=names)
    assert {integer.tensor(n).dtype for n in names} == {"int16"}
    library = check_graph(integer, path, tmp_path)
    notes = library.manifest["programs"][path]["notes"]
    assert path == "ref" or any("portable" in n for n in notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_each_alone(name: str, tmp_path: Path) -> None:
    graph = block_network(5)
    integer = quantize(graph, inputs(graph, 6, 1), raised=frozenset([name]))
    for path in ("neon", "dotprod"):
        check_graph(integer, path, tmp_path / path)


def test_onnxruntime_gives_the_same_integers() -> None:
    pytest.importorskip("onnxruntime")
    from tests.quant.test_export_onnx import compare

    for graph in (block_network(3), adds()):
        integer = quantize(graph, inputs(graph, 6, 1), raised=frozenset(found(graph)))
        assert compare(integer, 3) > 2
        assert compare(integer, 4, optimise=False) > 2


def test_a_file_keeps_them() -> None:
    graph = adds()
    integer = quantize(graph, inputs(graph, 4, 1), raised=frozenset(found(graph)))
    again = quantized_file.loads(quantized_file.dumps(integer, graph)).integer
    assert {n: t.dtype for n, t in again.tensors.items()} == {n: t.dtype for n, t in integer.tensors.items()}
    x = np.full((7, 6, 3), 77, np.int8)
    np.testing.assert_array_equal(
        reference.run(again, {"x": x})["logits"], reference.run(integer, {"x": x})["logits"]
    )


def test_sixteen_bits_are_nearer_to_float() -> None:
    """Of the tensors themselves, by more than a few bits: their rounding all but goes."""
    graph = adds()
    batch = inputs(graph, 8, 1)
    names = found(graph)
    before, after = (
        quantize(graph, batch, raised=raised, options=Options(rounding="nearest", bias_correction=False))
        for raised in (frozenset[str](), frozenset(names))
    )
    noise = [mixed.tensor_noise(graph, g, np.stack(batch), names) for g in (before, after)]
    assert set(noise[0]) == set(names) and noise[1] == {}
    stated = [g.meta["quantization"]["signal_to_noise_db"] for g in (before, after)]
    assert all(stated[1][n] > stated[0][n] for n in names)


def test_the_choice_is_what_pays_most(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = block_network(3)
    batch = inputs(graph, 9, 1)
    settings = {"output_dtype": "int16", "options": None, "seed": 0}
    monkeypatch.setattr(mixed, "LEAST_GAIN_DB", -100.0)
    monkeypatch.setattr(mixed, "tensor_noise", lambda *_: {"pool": 4.0, "gated": 4.0, "sum": 1.0})
    choice = mixed.choose_raised(graph, batch, 2, settings)
    # Equal noise: the vector, with few multiply-accumulates around it, before the map.
    assert choice.raised == ("pool", "gated") and choice.reason == ""
    assert [c.noise for c in choice.chosen] == [4 / 9, 4 / 9]
    assert choice.chosen[0].macs < choice.chosen[1].macs
    assert choice.trials is not None and choice.trials[1].tensor("gated").dtype == "int16"
    integer, _ = mixed.quantize_mixed(graph, batch, 2, input_dtype="uint8")
    facts = integer.meta["quantization"]["mixed"]
    assert facts["tensors"] == ["pool", "gated"] and "in 16 bits: pool, gated" in integer.meta["notes"][-1]
    assert integer.tensor("pool").dtype == "int16" and integer.tensor("sum").dtype == "int8"


def test_what_does_not_pay_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = adds()
    batch = inputs(graph, 9, 1)
    monkeypatch.setattr(mixed, "LEAST_GAIN_DB", 100.0)
    integer, choice = mixed.quantize_mixed(graph, batch, 2)
    assert choice.raised == () and "would pay" in choice.reason and len(choice.chosen) == 2
    plain = quantize(graph, batch)
    assert integer.tensors == plain.tensors
    x = np.full((7, 6, 3), 77, np.int8)
    got, want = (reference.run(g, {"x": x}, keep=True) for g in (integer, plain))
    assert all(np.array_equal(got[name], want[name]) for name in want)
    few, choice = mixed.quantize_mixed(graph, batch[:3], 2)
    assert choice.reason.startswith("3 calibration inputs") and few.meta["notes"]


def test_an_accumulator_that_can_overflow_is_refused() -> None:
    graph = adds()
    integer = quantize(graph, inputs(graph, 4, 1), raised=frozenset({"pool"}))
    logits = next(n for n in integer.nodes if n.name == "logits")
    bias = np.full(logits.bias.shape, 2**31 - 2**22, np.int32)  # leaves room for 8 bits, not for 16
    worse = integer.map_nodes(lambda n: replace(n, bias=bias) if n is logits else n)
    with pytest.raises(InvalidGraph, match="logits: accumulator can overflow"):
        verify(worse)
    pool = integer.tensor("pool")
    shifted = replace(pool, quant=replace(pool.quant, zero_point=(3,)))
    with pytest.raises(InvalidGraph, match="zero point other than 0"):
        verify(integer.replace(tensors={**integer.tensors, "pool": shifted}))
