"""The i8mm path against the NumPy reference, bit for bit, under qemu: Unicorn has no SMMLA."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mnv3c
from mnv3c.codegen.library import build_library
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph
from mnv3c.paths import registry
from mnv3c.runners.process import qemu
from tests.codegen.networks import classifier, doors
from tests.graphs import Builder, inverted_residual
from tests.paths.harness import check_graph, compile_graph, compile_strictly, strict_compilers

pytestmark = pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")

_QUIET = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """A few layers of any size; channels that are odd, few or no multiple of 8 among them."""
    b = Builder(draw(st.integers(0, 1 << 16)))
    channels = st.sampled_from([1, 3, 4, 6, 8, 12, 13, 16, 20, 24, 31, 40, 52, 64])
    x = b.input(draw(st.integers(1, 17)), draw(st.integers(1, 17)), draw(channels), zero_point=(3,))
    for kind in draw(
        st.lists(st.sampled_from(["1x1", "swish", "add", "block", "dense"]), min_size=2, max_size=4)
    ):
        height, width, here = b.tensors[x].shape
        out = draw(channels)
        if kind == "1x1":
            x = b.conv(x, out, offset=draw(st.booleans()), shift=draw(st.integers(0, 1)), low=-90, high=100)
        elif kind == "swish":
            # Far beyond 16 bits: every narrowing saturates somewhere.
            target = draw(st.sampled_from([9000.0, 60000.0]))
            x = b.hard_swish(b.conv(x, out, dtype="int16", target=target), per_channel=draw(st.booleans()))
        elif kind == "add":
            y = b.conv(x, here, dtype="int16", target=draw(st.sampled_from([4000.0, 40000.0])))
            x = b.add(y, x, bias=draw(st.sampled_from([0, 37])))
        elif kind == "block" and min(height, width) >= 3:
            reduced, kernel, stride = draw(
                st.sampled_from([(0, 3, 1), (8, 3, 1), (0, 5, 1), (6, 5, 2), (0, 3, 2)])
            )
            x = inverted_residual(b, x, here * 2, draw(st.sampled_from([here, out])), kernel, stride, reduced)
        elif kind == "dense":
            x = b.conv(x, out, 3, pad=(1, 1, 1, 1))
    return b.finish(b.conv(x, draw(channels)))


def check(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_graph(graph, "i8mm", Path(folder, "library"))


@settings(_QUIET, max_examples=8)
@given(networks())
def test_random_networks(graph: Graph) -> None:
    check(graph)


@pytest.mark.slow
@settings(_QUIET, max_examples=80)
@given(networks())
def test_many_random_networks(graph: Graph) -> None:
    check(graph)


@pytest.mark.parametrize("make", [classifier, doors])
def test_every_operator_without_a_warning(make: object, tmp_path: Path) -> None:
    check_graph(make(), "i8mm", tmp_path / "library", parallel=True)  # type: ignore[operator]
    for compiler in strict_compilers():
        compile_strictly(tmp_path / "library", compiler)


def projections(channels: int, expanded: int) -> Graph:
    """Residuals of one tensor read both as tiles and as matrix operands, sums pooled, maps of 7x7 and 1x1."""
    b = Builder(channels)
    x = b.hard_swish(b.conv(b.input(14, 14, 3), channels, 3, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, channels, channels, 3, 1)
    x = inverted_residual(b, x, expanded, channels, 5, 1, reduced=8)
    x = inverted_residual(b, x, expanded, channels, 5, 2, swish=False)
    x = inverted_residual(b, x, expanded, channels, 3, 1)
    y = b.hard_swish(b.conv(x, expanded, dtype="int16"), per_channel=True)
    pooled = b.requantize(b.channel_sum(y), 49)
    return b.finish(b.conv(pooled, 10, dtype="int16"))


@pytest.mark.parametrize(
    ("channels", "expanded"),
    [
        (16, 72),
        (13, 31),
        pytest.param(12, 52, marks=pytest.mark.slow),
        pytest.param(40, 120, marks=pytest.mark.slow),
    ],
)
def test_blocks(channels: int, expanded: int) -> None:
    check(projections(channels, expanded))


def test_uses_matrix_products_for_every_pointwise_convolution(tmp_path: Path) -> None:
    library = compile_graph(projections(16, 72), "i8mm", tmp_path / "library")
    source = (tmp_path / "library" / f"{library.name}_i8mm.c").read_text()
    assert "vmmlaq_s32" in source
    assert "expand_" in source and "project_" in source
    assert not any(
        line.startswith(("expand", "project")) and "_dotprod(" in line for line in source.split("\n")
    )


def test_expansions_have_their_weights_once_in_a_library_of_both_paths() -> None:
    b = Builder(7)
    graph = b.finish(inverted_residual(b, b.input(8, 8, 16), 72, 16, 3, 1))
    bytes_of = {
        paths: build_library(graph, paths).manifest["constant_bytes"]
        for paths in (("dotprod",), ("i8mm", "dotprod"))
    }
    extra = int(str(bytes_of["i8mm", "dotprod"])) - int(str(bytes_of["dotprod",]))
    assert extra == 72 * 16  # the projection's alone


def zoo(name: str, folder: Path, **options: object) -> None:
    mnv3c.compile(name, "cortex-a510", folder / "compiled", **options)  # type: ignore[arg-type]
    graph = serialize.load(folder / "compiled" / "reference" / "integer.npz")
    check_graph(graph, "i8mm", folder / "library", runs=1)


@pytest.mark.slow
def test_smallest_zoo_network(tmp_path: Path) -> None:
    zoo("mobilenet_v3_small", tmp_path, width=0.35, resolution=64, classes=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "resolution"),
    [
        ("mobilenet_v3_large", 1.0, 224),
        ("mobilenet_v3_small", 1.0, 224),
        ("mobilenet_v3_large", 1.25, 96),
        ("mobilenet_v3_small", 0.75, 160),
        ("mobilenet_v3_large", 0.35, 256),
        ("mobilenet_v3_large_minimalistic", 1.0, 128),
        ("mobilenet_v3_small_minimalistic", 0.5, 192),
    ],
)
def test_zoo(name: str, width: float, resolution: int, tmp_path: Path) -> None:
    zoo(name, tmp_path, width=width, resolution=resolution)


def test_is_the_first_choice() -> None:
    assert registry.available()[0] == "i8mm"
    assert registry.choose(("i8mm", "dotprod", "neon", "ref"), run_time_choice=True)[0] == "i8mm"
