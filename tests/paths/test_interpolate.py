"""Enlargement in vectors on every path of 64-bit Arm, against the NumPy reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.ir.positions import COORDINATES
from mnv3c.paths.common.interpolate import axis, plan
from mnv3c.runners import Library
from mnv3c.runners.process import qemu
from tests.graphs import Builder
from tests.paths.harness import check_graph, compile_strictly, strict_compilers

PATHS = [
    "neon",
    "dotprod",
    pytest.param("i8mm", marks=pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")),
]


def resize(
    b: Builder, x: str, size: tuple[int, int], coordinates: str, bits: int, classes: bool = False
) -> str:
    """A bilinear resize, with an argmax behind it if only the class is wanted."""
    t = b.tensors[x]
    shape = (*size, t.shape[2])
    name = f"resize{len(b.nodes)}"
    b.tensors[f"{name}_y"] = Tensor(f"{name}_y", shape, t.dtype, t.quant)
    b.nodes.append(q.QResize(name, (x,), (f"{name}_y",), "bilinear", coordinates, bits=bits))
    if not classes:
        return f"{name}_y"
    b.tensors[f"{name}_c"] = Tensor(f"{name}_c", (*size, 1), "uint8", Quant((1.0,)))
    b.nodes.append(q.QArgMax(f"{name}_argmax", (f"{name}_y",), (f"{name}_c",)))
    return f"{name}_c"


def portable(library: Library, path: str) -> list[str]:
    """What the path left to the portable kernels."""
    return [note for note in library.manifest["programs"][path]["notes"] if "portable" in note]


def random_graph(seed: int) -> Graph:
    """Enlargements of maps in tiles and of dense ones, of int8 and of int16, alone and with an argmax."""
    rng = np.random.default_rng(seed)
    b = Builder(seed, f"enlarged{seed}")
    height, width = (int(n) for n in rng.integers(1, 12, 2))
    channels = int(rng.choice([1, 3, 5, 8, 12, 19, 32]))
    x = b.input(height, width, 8, zero_point=(-4,))
    dense = b.input(height, width, channels)
    long = b.input(height, width, channels, dtype="int16")
    outputs = []
    for source in (b.conv(x, channels), dense, long):
        for classes in (False, True):
            size = tuple(
                int(n * f) + int(rng.integers(0, 4))
                for n, f in zip((height, width), rng.uniform(1, 6, 2), strict=True)
            )
            bits = int(rng.integers(1, 8 if source == long else 12))
            y = resize(b, source, size, str(rng.choice(COORDINATES)), bits, classes)  # type: ignore[arg-type]
            outputs.append(b.conv(y, 9) if source not in (dense, long) and not classes else y)
    return b.finish(*outputs)


@pytest.mark.parametrize("path", PATHS)
def test_enlargement_is_bit_equal(path: str, tmp_path: Path) -> None:
    library = check_graph(random_graph(0), path, tmp_path / "library", parallel=True)
    assert portable(library, path) == []
    for compiler in strict_compilers():
        compile_strictly(library.directory, compiler)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(1, 9))
def test_random_enlargements(seed: int, path: str, tmp_path: Path) -> None:
    check_graph(random_graph(seed), path, tmp_path / "library", runs=1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [(9, 17), (33, 65)])
def test_powers_of_two_in_strips(size: tuple[int, int], path: str, tmp_path: Path) -> None:
    """Sizes as of LR-ASPP: few bits of fraction, several strips of columns."""
    b = Builder(5, "strips")
    x = b.conv(b.input(5, 9, 8), 200)
    y = resize(b, x, size, "align_corners", 11)
    z = resize(b, b.conv(b.input(3, 65, 8), 21), (9, 513), "align_corners", 11, classes=True)
    check_graph(b.finish(b.conv(y, 4), z), path, tmp_path / "library", parallel=True)


@pytest.mark.parametrize("path", PATHS)
def test_reductions_are_left_to_the_portable_kernel(path: str, tmp_path: Path) -> None:
    b = Builder(6, "reduced")
    y = resize(b, b.input(9, 90, 3), (3, 4), "half_pixel", 11, classes=True)
    library = check_graph(b.finish(y), path, tmp_path / "library")
    assert len(portable(library, path)) == 1


def test_weights_keep_the_bits_that_they_need() -> None:
    quarters = axis(17, 65, "align_corners", 11)
    assert quarters.bits == 2 and quarters.weights[:6].tolist() == [0, 1, 2, 3, 0, 1]
    assert quarters.below[:6].tolist() == [0, 0, 0, 0, 1, 1] and quarters.above[-1] == 16
    thirds = axis(5, 13, "align_corners", 11)
    assert thirds.bits == 11 and thirds.weights[1] == round(2048 / 3)
    assert axis(4, 4, "half_pixel", 7).bits == 0
    assert axis(4, 4, "half_pixel", 7, least=1).bits == 1


def test_lanes_are_as_wide_as_the_weights_want() -> None:
    node = q.QResize("r", ("x",), ("y",), "bilinear", "align_corners", bits=11)
    shapes = {(65, 129): "narrow", (48, 80): "wide"}
    for size, kind in shapes.items():
        made = plan(node, Tensor("x", (17, 33, 4), "int8", None), size)
        assert made is not None and made.kind == kind
    long = plan(node, Tensor("x", (17, 33, 4), "int16", None), (65, 129))
    assert long is not None and long.kind == "long"
    nearest = q.QResize("r", ("x",), ("y",), "nearest", "align_corners")
    assert plan(nearest, Tensor("x", (17, 33, 4), "int8", None), (65, 129)) is None


@pytest.mark.parametrize("path", PATHS)
def test_gates_and_products_of_every_pixel(path: str, tmp_path: Path) -> None:
    b = Builder(8, "maps")
    x = b.conv(b.input(5, 7, 8), 24, zero_point=(-3,))
    gate = resize(b, b.input(2, 3, 24, dtype="int16"), (5, 7), "align_corners", 7)
    other = resize(b, b.conv(b.input(2, 3, 8), 24), (5, 7), "half_pixel", 11)
    y = b.multiply(b.gate(x, gate), other, low=-100, high=101)
    library = check_graph(b.finish(b.conv(y, 12)), path, tmp_path / "library", parallel=True)
    assert portable(library, path) == []
    for compiler in strict_compilers():
        compile_strictly(library.directory, compiler)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(6, 9, 8, 5), (3, 4, 40, 12), (9, 30, 13, 70), (2, 1, 4, 1)])
def test_logits_in_16_bits(shape: tuple[int, int, int, int], path: str, tmp_path: Path) -> None:
    height, width, depth, channels = shape
    b = Builder(sum(shape), "logits")
    b.outliers = height % 2
    y = b.conv(b.input(height, width, depth, zero_point=(5,)), channels, dtype="int16", shift=height % 3)
    library = check_graph(b.finish(y), path, tmp_path / "library", parallel=True)
    assert portable(library, path) == [] or path == "neon"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_class_that_wins_everywhere(dtype: str, path: str, tmp_path: Path) -> None:
    """Few values: many ties, and many groups of pixels with one winner all around."""
    b = Builder(9, f"winners{dtype}")
    x = b.input(8, 33, 4)
    scores = b.conv(x, 3, dtype=dtype, **({"low": 0, "high": 1} if dtype == "int8" else {"target": 1.0}))  # type: ignore[arg-type]
    y = resize(b, scores, (57, 257), "align_corners", 7, classes=True)
    check_graph(b.finish(y), path, tmp_path / "library", runs=4, parallel=True)
