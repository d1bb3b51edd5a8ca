"""Compile a graph for a path, build it, run it emulated, compare every bit with the NumPy reference."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import Library, open_library, open_runner
from tests.graphs import random_inputs

_STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
_CROSS = {
    "gcc": ("aarch64-linux-gnu-gcc",),
    "clang": ("clang-19", "--target=aarch64-linux-gnu"),
}


def compile_graph(graph: Graph, path: str, folder: Path, options: Options | None = None) -> Library:
    """Write the library of a primitive integer graph with that one path."""
    library = build_library(graph, [path], options=options)
    write_folder(folder, library.files)
    return open_library(folder)


def check_graph(
    graph: Graph,
    path: str,
    folder: Path,
    *,
    options: Options | None = None,
    runs: int = 2,
    kind: str = "auto",
    parallel: bool = False,
) -> Library:
    """Assert that ``path`` computes ``graph`` exactly, for random inputs; returns the library."""
    library = compile_graph(graph, path, folder, options)
    runner = open_runner(library, path, kind, parallel=parallel)
    try:
        for seed in range(runs):
            inputs = random_inputs(graph, seed)
            expected = integer.run(graph, inputs)
            results = runner.run([inputs[name] for name in graph.inputs])
            for name, got in zip(graph.outputs, results, strict=True):
                assert_equal(got, expected[name], f"{path}, output {name}, seed {seed}")
    finally:
        runner.close()
    return library


def assert_equal(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Same shape, dtype and bits; the message names the first element that differs and counts them."""
    assert got.shape == expected.shape and got.dtype == expected.dtype, what
    if expected.dtype.kind == "f":
        got, expected = got.view(np.uint32), expected.view(np.uint32)
    wrong = np.argwhere(got != expected)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{what}: {len(wrong)} of {expected.size} differ,"
            f" first {at}: got {got[at]}, expected {expected[at]}"
        )


def strict_compilers() -> list[str]:
    """Cross compilers that are installed, of those that generated code must satisfy without a warning."""
    return [name for name, argv in _CROSS.items() if shutil.which(argv[0])]


def compile_strictly(folder: Path, compiler: str) -> None:
    """Compile every source of a library with all warnings as errors."""
    for source in sorted(folder.glob("*.c")):
        argv = [*_CROSS[compiler], *_STRICT, "-c", str(source), "-o", str(folder / "strict.o")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, f"{compiler}, {source.name}:\n{done.stderr}"
        (folder / "strict.o").unlink()
