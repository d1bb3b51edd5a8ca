"""Random networks, each on every path of one library: bits, and no byte written by two shares.

``MNV3C_RANDOM_NETWORKS=1000 pytest -m slow tests/paths/test_random_networks.py`` draws so many.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import open_library
from tests.graphs import Builder, attention, inverted_residual, random_inputs
from tests.paths import threads
from tests.paths.harness import assert_equal

PATHS = ("i8mm", "dotprod", "neon")
_FAST = 2
_MANY = int(os.environ.get("MNV3C_RANDOM_NETWORKS", "12"))

pytestmark = pytest.mark.skipif(not threads.available(), reason=threads.NEEDED)


def network(seed: int) -> Graph:
    """An image or a map of a few channels, some blocks, and sometimes attention and a head."""
    rng = np.random.default_rng(seed)
    b = Builder(seed, f"net{seed}")
    b.twice = seed % 5 == 4
    height, width = (int(n) for n in rng.integers(9, 80, 2))
    if rng.integers(4):
        x = b.input(height, width, int(rng.choice([1, 3, 3, 4])), zero_point=b.zero_points(1, False))
        x = b.conv(x, int(rng.integers(4, 28)), 3, stride=2, pad=(0, 0, 1, 1), dtype="int16")
        x = b.hard_swish(x, per_channel=bool(rng.integers(2)))
    else:
        x = b.input(height // 2 + 1, width // 2 + 1, int(rng.integers(3, 40)))
    for _ in range(int(rng.integers(1, 5))):
        shape = b.tensors[x].shape
        kernel = int(rng.choice([3, 5]))
        stride = int(rng.choice([1, 1, 2])) if min(shape[:2]) > 5 else 1
        out = shape[2] if stride == 1 and rng.integers(2) else int(rng.integers(3, 50))
        expand = shape[2] if rng.integers(4) == 0 else int(rng.integers(4, 110))
        reduced = int(rng.choice([0, 0, 4, 12]))
        swish, per_channel = bool(rng.integers(2)), bool(rng.integers(2))
        x = inverted_residual(b, x, expand, out, kernel, stride, reduced, swish, per_channel)
    if seed % 3 == 0:
        x = b.softmax(x)
    if seed % 3 == 0:
        x = attention(b, x)
    if rng.integers(2):
        shape = b.tensors[x].shape
        x = b.hard_swish(b.conv(x, int(rng.integers(8, 200)), dtype="int16"))
        x = b.requantize(b.channel_sum(x), shape[0] * shape[1])
        x = b.conv(x, int(rng.integers(2, 300)))
    return b.finish(x)


def check(seed: int, folder: Path) -> None:
    """Compile for all paths, run each, compare."""
    rng = np.random.default_rng(seed + 1_000_000)
    graph = network(seed)
    options = Options(
        tuning=str(rng.choice(["generic", "cortex-a55", "cortex-a76"])),
        memory=str(rng.choice(["fast", "small"])),
    )
    write_folder(folder / "library", build_library(graph, PATHS, options=options).files)
    library = open_library(folder / "library")
    program = threads.build(library, "i8mm", folder)
    inputs = random_inputs(graph, seed)
    expected = integer.run(graph, inputs)[graph.outputs[0]]
    for path in PATHS:
        # Checked shares in random order; three threads; nothing divided.
        for workers in (0, 3, -1):
            data, _ = threads.run(
                program, library, path, workers, seed, inputs[graph.inputs[0]], folder, "i8mm"
            )
            got = np.frombuffer(data, expected.dtype).reshape(expected.shape)
            assert_equal(got, expected, f"seed {seed}, {options}, {path}, {workers} threads")


@pytest.mark.parametrize("seed", range(_FAST))
def test_few(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(_FAST, _FAST + _MANY))
def test_many(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)
