"""What only models that come quantised have: weights of 9 bits, tables, exact sums and products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from mnv3c.paths.dotprod.outliers import extra_steps, most_extra_steps, split
from mnv3c.runners import Library
from mnv3c.runners.process import qemu
from tests.graphs import Builder
from tests.paths.dotprod.test_operators import KINDS
from tests.paths.harness import check_graph, compile_strictly, strict_compilers

PATHS = [
    "dotprod",
    pytest.param("i8mm", marks=pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")),
]


def test_parts_are_int8_and_sum_to_the_weights() -> None:
    weight = np.array([[-255, -129, -128, 0], [127, 128, 254, 255]], np.int16)
    parts = split(weight)
    assert parts.base.dtype == np.int8
    assert parts.base.tolist() == [[-128, -128, -128, 0], [127, 127, 127, 127]]
    assert (sum(p.astype(int) for p in (parts.base, *parts.rest)) == weight).all()
    assert len(parts.rest) == 2  # 255 = 127 + 127 + 1
    assert split(np.array([[-128, 127]], np.int16)).rest == ()


def test_extra_steps_are_those_inputs_that_a_group_needs_again() -> None:
    weight = np.zeros((8, 12), np.int16)
    weight[1, 5], weight[6, 0], weight[7, 11] = 130, -200, 128
    steps = extra_steps(weight, 4, 4)
    assert [[u for u, _ in group] for group in steps] == [[1], [0, 2]]
    assert steps[0][0][1].tolist() == [[0] * 4, [0, 3, 0, 0], [0] * 4, [0] * 4]
    assert most_extra_steps(weight) == 3  # in groups of eight
    assert most_extra_steps(weight.clip(-128, 127)) == 0


def _without_portable(library: Library, path: str) -> bool:
    return not any("portable" in note for note in library.manifest["programs"][path]["notes"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twice", [False, True])
def test_weights_of_9_bits_or_two_roundings(twice: bool, kind: str, path: str, tmp_path: Path) -> None:
    graph = _rounded_twice(kind, 1) if twice else _nine_bits(kind, 1)
    library = check_graph(graph, path, tmp_path / "library")
    assert _without_portable(library, path)
    for compiler in strict_compilers():
        compile_strictly(library.directory, compiler)


@pytest.mark.parametrize("path", PATHS)
def test_layers_of_different_depth_share_a_kernel(path: str, tmp_path: Path) -> None:
    b = Builder(4, "shared")
    b.outliers = 1
    x = b.conv(b.conv(b.input(6, 6, 96), 192), 96)
    check_graph(b.finish(b.conv(x, 192)), path, tmp_path / "library")


def test_windows_with_equal_tiles(tmp_path: Path) -> None:
    """Eight values a window row are one matrix operand: operands of two pixel pairs can be the same bytes."""
    b = Builder(3, "equal")
    y = b.conv(b.input(8, 8, 4), 8, (2, 4), stride=2)
    check_graph(b.finish(y), "dotprod", tmp_path / "dotprod")
    if qemu() is not None:
        check_graph(b.finish(y), "i8mm", tmp_path / "i8mm")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("kind", KINDS)
def test_more_weights_of_9_bits(kind: str, seed: int, path: str, tmp_path: Path) -> None:
    check_graph(_nine_bits(kind, seed), path, tmp_path / "library", runs=1)


@pytest.mark.parametrize("kind", ["pointwise", "block"])
def test_weights_of_9_bits_in_order(kind: str, tmp_path: Path) -> None:
    check_graph(_nine_bits(kind, 1), "dotprod", tmp_path / "library", options=Options(tuning="cortex-a55"))


def _nine_bits(kind: str, seed: int) -> Graph:
    b = Builder(seed, f"{kind}{seed}")
    b.outliers = 1 + seed % 3
    return b.finish(KINDS[kind](b, np.random.default_rng(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("kind", KINDS)
def test_more_two_roundings(kind: str, seed: int, path: str, tmp_path: Path) -> None:
    tuning = Options(tuning=("cortex-a55", "cortex-a76")[seed % 2])
    check_graph(_rounded_twice(kind, seed), path, tmp_path / "library", runs=1, options=tuning)


def _rounded_twice(kind: str, seed: int) -> Graph:
    """Every third with weights of 9 bits besides."""
    b = Builder(seed, f"{kind}{seed}")
    b.twice, b.outliers = True, int(seed % 3 == 0)
    return b.finish(KINDS[kind](b, np.random.default_rng(seed)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("size", [(8, 8, 24), (7, 7, 12), (5, 9, 13), (1, 1, 40), (30, 2, 3)])
def test_tables_sums_and_products(size: tuple[int, int, int], twice: bool, path: str, tmp_path: Path) -> None:
    b = Builder(size[2], f"exact{size[2]}")
    b.twice = twice
    x = b.input(*size, zero_point=(-3,))
    y = b.conv(b.lut(b.conv(x, 20)), 24)
    y = b.lut(b.depthwise(y, 3, pad=(1, 1, 1, 1)))
    gate = b.conv(b.requantize(b.channel_sum(y), size[0] * size[1]), 24) if size[0] > 1 else y
    y = b.add32(b.multiply(y, gate, low=-120, high=110), y, low=-100)
    y = b.add32(b.lut(b.conv(y, 24)), y, shift=20)
    graph = b.finish(b.conv(b.multiply(y, gate, shift=7), 9), y)
    check_graph(graph, path, tmp_path / "library")


def test_products_of_greater_factors_are_exact(tmp_path: Path) -> None:
    b = Builder(2, "twice")
    y = b.conv(b.input(6, 6, 8), 16)
    gate = b.conv(b.input(1, 1, 8), 16)
    check_graph(b.finish(b.multiply(y, gate, shift=9)), "dotprod", tmp_path / "library")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(19, 21, 3), (16, 24, 3), (11, 13, 5), (90, 95, 2), (1, 1, 20)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_float_images(per_channel: bool, shape: tuple[int, int, int], path: str, tmp_path: Path) -> None:
    """Quantised at the door, then through a table; what is no whole vector and what is, divided and not."""
    b = Builder(shape[1], "door")
    x = b.quantize(b.input(*shape, dtype="float32"), per_channel)
    y = b.lut(x)
    y = b.conv(y, 12, 3, stride=2, pad=(1, 1, 1, 1)) if shape[0] > 1 else b.conv(y, 12)
    outputs = (y, x) if per_channel else (y,)
    library = check_graph(b.finish(*outputs), path, tmp_path / "library")
    assert _without_portable(library, path) or shape[0] == 1  # whole vectors would leave a caller's vector
    for compiler in strict_compilers():
        compile_strictly(library.directory, compiler)
