"""The default schedules of ``schedules/``: what the paths use, rule by rule and layer by layer."""

from __future__ import annotations

import functools

import pytest

from mnv3c import api, targets
from mnv3c.ir.graph import Graph
from mnv3c.paths.dotprod.chunks import Walk
from mnv3c.schedules import table_of
from mnv3c.tuning import space, tasks
from tests.graphs import Builder, inverted_residual
from tests.tuning.networks import network

CASES = (
    ("dotprod", "cortex-a55"),
    ("dotprod", "cortex-a76"),
    ("i8mm", "cortex-a510"),
    ("i8mm", "cortex-a710"),
    ("neon", "cortex-a53"),
    ("neon", "cortex-a72"),
)


@functools.cache
def uneven() -> Graph:
    """What ``network`` has not: odd and narrow maps, ReLU, channels that 8 does not divide, a pool of a map
    that is stored too."""
    b = Builder(3, "uneven")
    x = b.conv(b.input(31, 29, 3), 12, 3, stride=2, pad=(1, 1, 1, 1))
    x = inverted_residual(b, x, 36, 24, 3, 2, swish=False)
    x = inverted_residual(b, x, 144, 24, 5, 1, reduced=36)
    x = b.conv(x, 20)
    x = b.conv(x, 264)
    y = b.requantize(b.channel_sum(x), 36)
    return b.finish(x, b.conv(y, 20, dtype="int16"))


@functools.cache
def chained() -> Graph:
    """A first layer and blocks without SE, and a large tensor between them: what may all be one stage."""
    b = Builder(5, "chained")
    x = b.hard_swish(b.conv(b.input(128, 128, 3), 32, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 32, 32, 3, 1, swish=False)
    x = inverted_residual(b, x, 64, 24, 3, 2, swish=False)
    x = inverted_residual(b, x, 72, 24, 3, 1)
    return b.finish(x)


@functools.cache
def zoo(name: str) -> Graph:
    return api.quantize(api.load(name, classes=12, seed=1, name="net"))


def compare(graph: Graph, path: str, core: str, layers: list[tasks.Layer]) -> set[str]:
    """The operators whose explicit defaults are those of an empty schedule, knob by knob and in C."""
    seen = set()
    for layer in {layer.op: layer for layer in layers}.values():
        wanted = space.default(layer.op, targets.get(core))
        task = tasks.task(graph, layer, core)
        empty, used = task.candidate({})
        assert wanted == used, layer.op.key
        assert set(wanted) == set(space.legal(layer.op, targets.get(core))), layer.op.key
        # A last chunk that is shorter than the others follows the rule of ``start`` by itself.
        given = {k: v for k, v in wanted.items() if (layer.op.operator, k) != ("pointwise", "start")}
        assert task.candidate(given)[0].key == empty.key, layer.op.key
        seen.add(layer.op.operator)
    return seen


@pytest.mark.parametrize("graph", [network, uneven], ids=["network", "uneven"])
@pytest.mark.parametrize(("path", "core"), CASES)
def test_defaults_are_what_the_path_uses(graph, path, core):
    layers = tasks.layers(graph(), path, core)
    assert compare(graph(), path, core, layers) >= {"block", "pointwise", "vector"}


@pytest.mark.parametrize(("path", "core"), CASES[::2])
def test_defaults_in_every_fusion_and_block_shape(path, core):
    layers = tasks.variants(chained(), path, core)
    assert "chain" in compare(chained(), path, core, layers)
    assert any("image" in layer.op.key for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "core"), CASES[::2])
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_large_0.75_96",
        "mobilenet_v1_0.25_128",
        "mobilenet_edgetpu_0.35_96",
    ],
)
def test_defaults_of_zoo_networks(name, path, core):
    compare(zoo(name), path, core, tasks.layers(zoo(name), path, core))


def test_rules_of_register_tiles():
    rules = table_of("pointwise")
    assert [rules.default_tile(n) for n in (6, 4, 5)] == ["8x12", "12x8", "16x4"]
    assert rules.default_tile(6, paired=True) == "12x8"
    assert [rules.default_unroll(n) for n in (1, 10, 12, 40, 11)] == [1, 10, 6, 4, 1]
    assert [rules.default_unroll_i8mm(n) for n in (3, 10, 11, 12, 20)] == [3, 10, 5, 6, 5]
    assert rules.default_start("channel", 1, False, "grouped") == "registers"
    assert rules.default_start("channel", 2, False, "grouped") == "table"
    assert rules.default_start("channel", 1, True, "grouped") == "table"
    assert rules.default_start("pixel", 2, False, "ahead") == "registers"


def test_rule_of_chunks_keeps_the_input_in_the_cache():
    rules = table_of("pointwise")
    few = rules.default_chunks(Walk(16, 1, 256, 0), 6, 12, 1024)
    assert (few.size, few.passes) == (16, 1)
    assert rules.default_chunks(Walk(16, 1, 256, 0), 6, 12, 1024, workers=1).parts == 1
    many = rules.default_chunks(Walk(784, 1, 960, 0), 6, 12, 1024)
    assert many.parts == 4 and many.size * (960 + 64) <= 26 * 1024 and many.size % 6 == 0
    assert rules.default_chunk_neon(14, 1000) == 14  # 14 kB: all at once
    assert rules.default_chunk_neon(28, 2000) == 6  # 6 blocks of 2000 bytes: five chunks, 28 by 5 is 6 each


def test_rules_of_windows():
    rules = table_of("block")
    # 10 rows of the result, 3000 bytes for the first and 1000 for each further one, in 6000 bytes: 4 rows.
    assert rules.highest_band(10, 3000, 1000, 6000) == 4
    assert rules.highest_band(10, 9000, 1000, 6000) == 1
    assert rules.highest_band(2, 100, 100, 6000) == 2
    assert rules.default_band_rows(10, 4) == 4 and rules.default_band_rows(10, 9) == 5
    assert rules.window_room(small=False) == 16 * 1024
    # An input of 40 kB leaves the cache: 30 groups of channels in three turns of at most 12.
    assert rules.default_group(30, 40000, 500) == 10
    assert rules.default_group(30, 10000, 500) == 4 and rules.default_group(30, 25000, 500) == 2
    # 26 registers, less 8 for sums and 6 constants: 12, and 3 more may stay in memory.
    free = rules.free_registers(6)
    assert [rules.default_weights(n, free) for n in (15, 16)] == ["registers", "memory"]
    assert rules.default_blocks("registers", 7) == 2 and rules.default_blocks("memory", 9) == 3
    assert rules.default_slices(4, 1000, 500, 4, small=False) == 4  # one for each of 4 workers
    assert rules.default_slices(4, 1000, 500, 1, small=False) == 1
    assert rules.default_slices(64, 1000, 1500, 4, small=False) == 8  # 8 blocks: 13000 bytes, of 20 kB


def test_rules_of_the_network():
    rules = table_of("network")
    shapes = ((7, 7), (14, 14), (28, 28), (56, 56), (56, 58), (1, 4))
    assert [rules.default_block(*s) for s in shapes] == ["1x4", "2x2", "2x2", "1x4", "2x2", "1x4"]
    for rule in (rules.default_project, rules.default_next):
        assert [rule(n, False) for n in (65535, 65536)] == ["apart", "inside"]
        assert rule(1, True) == "inside"
    assert rules.default_project_neon(0.7, "fast") == "apart"
    assert rules.default_project_neon(0.7, "small") == "inside"
    assert rules.default_next_neon(200000, 50000, 0.8, "fast") == "inside"
    assert rules.default_next_neon(200000, 50001, 0.8, "fast") == "apart"
    assert rules.default_next_neon(200000, 50000, 0.7, "fast") == "apart"


def test_rules_of_vectors_and_gates():
    assert [table_of("vector").default_quads(n) for n in (8, 5, 18, 9, 7)] == [4, 5, 6, 3, 1]
    assert [table_of("gate").default_unroll(n) for n in (8, 6, 7)] == [4, 2, 1]
