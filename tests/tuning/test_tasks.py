from __future__ import annotations

import numpy as np
import pytest

from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.reference import integer
from mnv3c.tuning import tasks
from tests.graphs import random_inputs
from tests.tuning.networks import network

CORES = {"dotprod": "cortex-a55", "i8mm": "cortex-a710"}


@pytest.mark.parametrize("path", CORES)
def test_a_cut_out_layer_computes_what_it_computes_in_the_network(path):
    graph = network()
    values = integer.run(graph, random_inputs(graph, 3), keep=True)
    for layer in tasks.variants(graph, path, CORES[path]):
        small = tasks.subgraph(graph, layer)
        got = integer.run(small, {n: values[n] for n in small.inputs})
        assert got
        for name, array in got.items():
            np.testing.assert_array_equal(array, values[name])


@pytest.mark.parametrize("path", CORES)
def test_the_layers_cover_each_node_once(path):
    graph = network()
    nodes = [n for layer in tasks.layers(graph, path, CORES[path]) for n in layer.nodes]
    assert len(nodes) == len(set(nodes))


def test_equal_layers_are_one_operator():
    graph = network()
    found = tasks.layers(graph, "dotprod", "cortex-a55")
    vectors = [x for x in found if x.op.operator == "vector"]
    assert len({x.op for x in vectors}) < len(vectors)  # both SE layers squeeze to 8


@pytest.mark.parametrize("path", CORES)
def test_the_effective_schedule_gives_the_same_code_as_the_rules(path):
    graph = network()
    for layer in tasks.layers(graph, path, CORES[path]):
        task = tasks.task(graph, layer, CORES[path])
        candidate, effective = task.candidate({})
        again, same = task.candidate(effective)
        assert again.key == candidate.key and same == effective
        assert candidate.layers, layer.op.key


def test_by_node_and_flat_are_inverse():
    graph = network()
    block = next(
        x
        for x in tasks.variants(graph, "dotprod", "cortex-a55")
        if x.op.operator == "block" and x.op.number("out")
    )
    schedule = {"band_rows": 2, "expand.tile": "8x8", "project.unroll": 1}
    by_node = block.by_node(schedule)
    assert by_node[block.nodes[0]] == {"tile": "8x8"} and by_node[block.nodes[2]] == {"unroll": 1}
    assert by_node[block.nodes[1]]["band_rows"] == 2 and by_node[block.nodes[1]]["project"] == "inside"
    assert block.flat(by_node) == schedule


def test_the_default_schedules_change_no_byte_of_a_library():
    graph = network()
    plain = build_library(graph, ("dotprod",), options=Options("cortex-a55"))
    layers = tasks.layers(graph, "dotprod", "cortex-a55")
    schedules = {}
    for layer in layers:
        _, effective = tasks.task(graph, layer, "cortex-a55").candidate({})
        schedules |= layer.by_node({k: v for k, v in effective.items() if k != "chunk"})
    told = build_library(graph, ("dotprod",), options=Options("cortex-a55", schedules=schedules))
    sources = [n for n in plain.files if n.endswith((".c", ".h"))]
    assert {n: plain.files[n] for n in sources} == {n: told.files[n] for n in sources}


def test_variants_have_both_fusions_and_all_block_shapes():
    found = {x.op for x in tasks.variants(network(), "dotprod", "cortex-a55")}
    first = [
        op
        for op in found
        if op.operator == "block" and op.number("height") == 12 and op.text("kernel") == "3x3"
    ]
    assert {(op.number("out") > 0, op.text("block_in"), op.text("block_out")) for op in first} == {
        (inside, block, block) for inside in (True, False) for block in ("2x2", "1x4")
    }
    second = [op for op in found if op.operator == "block" and op.text("stride") == "2x2"]
    assert {(op.text("block_in"), op.text("block_out")) for op in second} == {
        (a, b) for a in ("2x2", "1x4") for b in ("2x2", "1x4")
    }


def test_a_layer_of_neon_alone_has_the_kernels_that_it_has_in_the_network():
    graph = network()
    for layer in tasks.layers(graph, "neon", "cortex-a53"):
        task = tasks.task(graph, layer, "cortex-a53")
        candidate, effective = task.candidate({})
        whole = build_library(graph, ("neon",), options=Options(tuning="cortex-a53"))
        entries = whole.manifest["programs"]["neon"]["layers"]
        there = next(e for e in entries if e["schedule"] and set(e["nodes"]) == set(layer.nodes))
        assert layer.flat(there["schedule"]) == effective
        for expected, got in zip(task.expected, integer.run(task.graph, _named(task)).values(), strict=True):
            np.testing.assert_array_equal(expected, got)
        assert candidate.layers


def _named(task):
    return dict(zip(task.graph.inputs, task.inputs, strict=True))
