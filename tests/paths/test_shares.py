"""Layers divided between workers: real threads, shares in any order, no byte written by two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c import api
from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from mnv3c.passes import run_passes
from mnv3c.paths import registry
from mnv3c.reference import integer
from tests.graphs import Builder, inverted_residual, random_inputs
from tests.paths import threads
from tests.paths.harness import assert_equal, compile_graph

PATHS = ("dotprod", "i8mm", "neon")

pytestmark = pytest.mark.skipif(not threads.available(), reason=threads.NEEDED)


def _check(graph: Graph, path: str, folder: Path, options: Options, *, most: int = 4) -> int:
    """Returns the layers that were divided."""
    library = compile_graph(graph, path, folder / "library", options)
    program = threads.build(library, path, folder)
    divided = 0
    for seed in range(most):
        inputs = random_inputs(graph, seed)
        expected = integer.run(graph, inputs)[graph.outputs[0]]
        for workers in (0, 2, 3, 5):
            data, divided = threads.run(
                program, library, path, workers, seed, inputs[graph.inputs[0]], folder
            )
            got = np.frombuffer(data, expected.dtype).reshape(expected.shape)
            assert_equal(got, expected, f"{path}, {workers} threads, seed {seed}")
    return divided


def _blocks() -> Graph:
    """All that is divided: image, chained blocks, squeeze-excite, residuals, odd maps, head, classifier."""
    b = Builder(11, "blocks")
    x = b.input(70, 66, 3)
    x = b.hard_swish(b.conv(x, 12, 3, stride=2, pad=(0, 0, 1, 1), dtype="int16"), per_channel=True)
    x = inverted_residual(b, x, 12, 12, 3, 1)
    x = inverted_residual(b, x, 40, 20, 5, 2, 8)
    x = inverted_residual(b, x, 60, 20, 3, 1, 12)
    x = inverted_residual(b, x, 72, 28, 3, 2)
    x = inverted_residual(b, x, 100, 28, 5, 1)
    x = b.hard_swish(b.conv(x, 90, dtype="int16"))
    x = b.requantize(b.channel_sum(x), 81)
    return b.finish(b.conv(b.hard_swish(b.conv(x, 640, dtype="int16")), 130))


@pytest.mark.parametrize("memory", ["fast", "small"])
@pytest.mark.parametrize("path", PATHS)
def test_blocks(path: str, memory: str, tmp_path: Path) -> None:
    divided = _check(_blocks(), path, tmp_path, Options(memory=memory), most=2)
    assert divided > (6 if memory == "fast" else 4)


def _cut_for(graph: Graph, workers: int) -> Options:
    return Options(schedules={node.name: {"workers": workers} for node in run_passes(graph).nodes})


@pytest.mark.parametrize("path", PATHS)
def test_blocks_cut_for_some_workers(path: str, tmp_path: Path) -> None:
    assert _check(_blocks(), path, tmp_path, _cut_for(_blocks(), 3), most=1) > 6


@pytest.mark.parametrize("path", ["dotprod", "i8mm"])
def test_shares_are_no_more_than_the_workers(path: str) -> None:
    graph = _blocks()
    for workers in range(1, 5):
        program = registry.load(path).lower(run_passes(graph), _cut_for(graph, workers))
        parts = {stage.parts for stage in program.stages if stage.schedule}
        assert max(parts) == workers


def test_shares_suit_the_workers_on_neon() -> None:
    graph = _blocks()
    program = registry.load("neon").lower(run_passes(graph), _cut_for(graph, 1))
    # Slices that lie in the cache may still be shares.
    assert {s.parts for s in program.stages if s.schedule and "slices" not in str(s.schedule)} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "width", "resolution"),
    [("mobilenet_v3_small", 0.75, 224), ("mobilenet_v3_large", 0.5, 160)],
)
def test_zoo(path: str, name: str, width: float, resolution: int, tmp_path: Path) -> None:
    network = api.load(name, width=width, resolution=resolution, classes=100, seed=1, name="net")
    rng = np.random.default_rng(2)
    images = [rng.normal(0, 0.4, (resolution, resolution, 3)).astype(np.float32) for _ in range(2)]
    assert _check(api.quantize(network, images), path, tmp_path, Options(), most=1) > 30
