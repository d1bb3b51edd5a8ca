"""Whole networks of the zoo, random weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c import api
from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from tests.paths.harness import check_graph

PATH = "dotprod"


def _network(name: str, width: float, resolution: int) -> Graph:
    network = api.load(name, width=width, resolution=resolution, classes=100, seed=1, name="net")
    rng = np.random.default_rng(2)
    images = [rng.normal(0, 0.4, (resolution, resolution, 3)).astype(np.float32) for _ in range(2)]
    return api.quantize(network, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "resolution", "tuning"),
    [
        ("mobilenet_v3_large", 0.35, 96, "generic"),
        ("mobilenet_v3_large", 0.75, 160, "cortex-a55"),
        ("mobilenet_v3_large_minimalistic", 1.0, 128, "generic"),
        ("mobilenet_v3_small", 0.35, 224, "cortex-a55"),
        ("mobilenet_v3_small", 1.25, 128, "generic"),
        ("mobilenet_v3_small_minimalistic", 0.75, 192, "generic"),
    ],
)
def test_zoo(name: str, width: float, resolution: int, tuning: str, tmp_path: Path) -> None:
    graph = _network(name, width, resolution)
    library = check_graph(graph, PATH, tmp_path / "library", options=Options(tuning=tuning), runs=1)
    # A network of the zoo needs no portable kernel for a convolution.
    assert library.manifest["programs"][PATH]["notes"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arena"), [("mobilenet_v3_large", 440), ("mobilenet_v3_small", 270)])
def test_arena_at_full_size(name: str, arena: int, tmp_path: Path) -> None:
    library = check_graph(_network(name, 1.0, 224), PATH, tmp_path / "library", runs=1)
    assert library.arena_bytes <= arena * 1024
