"""Layers divided between workers: real threads, shares in any order, no byte written by two of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mnv3c import api
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import Library
from mnv3c.runners.base import cpu_for
from tests.graphs import Builder, inverted_residual, random_inputs
from tests.paths.harness import assert_equal, compile_graph

SOURCE = Path(__file__).with_name("shares.c")
CROSS = "aarch64-linux-gnu-gcc"
PATHS = ("dotprod", "i8mm", "neon")

pytestmark = pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which("qemu-aarch64") is None,
    reason="needs aarch64-linux-gnu-gcc and qemu-aarch64",
)


def _program(library: Library, path: str, folder: Path) -> Path:
    program = folder / "shares"
    flags = cpu_for(library, path, None).flags["gcc"]
    argv = [CROSS, "-std=gnu11", "-O2", "-static", "-pthread", *flags, f"-DRUN={library.name}_run"]
    argv += [str(SOURCE), *(str(s) for s in library.sources), "-o", str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return program


def _run(
    program: Path, library: Library, path: str, threads: int, seed: int, x: np.ndarray, folder: Path
) -> tuple[bytes, int]:
    """The output, and how many layers were divided."""
    (folder / "in.bin").write_bytes(x.tobytes())
    cpu = cpu_for(library, path, None)
    sizes = [library.inputs[0].bytes, library.outputs[0].bytes, library.arena_bytes, PATH_IDS[path]]
    argv = ["qemu-aarch64", "-cpu", cpu.qemu, str(program), str(threads), str(seed)]
    argv += [str(folder / "in.bin"), str(folder / "out.bin"), *map(str, sizes)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out.bin").read_bytes(), int(done.stdout)


def _check(graph: Graph, path: str, folder: Path, *, memory: str = "fast", most: int = 4) -> int:
    """Returns the layers that were divided."""
    library = compile_graph(graph, path, folder / "library", Options(memory=memory))
    program = _program(library, path, folder)
    divided = 0
    for seed in range(most):
        inputs = random_inputs(graph, seed)
        expected = integer.run(graph, inputs)[graph.outputs[0]]
        for threads in (0, 2, 3, 5):
            data, divided = _run(program, library, path, threads, seed, inputs[graph.inputs[0]], folder)
            got = np.frombuffer(data, expected.dtype).reshape(expected.shape)
            assert_equal(got, expected, f"{path}, {threads} threads, seed {seed}")
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
    divided = _check(_blocks(), path, tmp_path, memory=memory, most=2)
    assert divided > (6 if memory == "fast" else 4)


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
    assert _check(api.quantize(network, images), path, tmp_path, most=1) > 30
