"""Tensors in 16 bits: every operator that writes or reads them, on every path, and how they are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.quant import mixed, quantize
from mnv3c.quant.groups import group
from mnv3c.quant.prepare import prepare, wide_tensors
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


@pytest.mark.parametrize("graph", [block_network(3), adds()], ids=["blocks", "adds"])
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
