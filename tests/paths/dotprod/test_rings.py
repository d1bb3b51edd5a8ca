"""Windows whose rows lie in a ring: every height of bands, kernel and stride, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from tests.graphs import Builder, inverted_residual
from tests.paths.harness import check_graph, compile_strictly, strict_compilers


def _chain(kernel: int, stride: int) -> Graph:
    """First layer, a block that adds it, and a block that wants the rows of that one."""
    b = Builder(kernel + stride, "rings")
    x = b.hard_swish(b.conv(b.input(45, 38, 3), 8, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 8, 8, 3, 1, swish=False)
    return b.finish(inverted_residual(b, x, 24, 12, kernel, stride))


def _groups(kernel: int, stride: int) -> Graph:
    """A block whose channel sums keep its projection apart: groups of channels outside, bands inside."""
    b = Builder(kernel * stride, "groups")
    x = inverted_residual(b, b.input(23, 19, 8), 32, 12, kernel, stride, reduced=8)
    return b.finish(b.conv(x, 8))


def _options(graph: Graph, **knobs: int) -> Options:
    """These values for every node that asks, and whatever can be computed together is."""
    values = {"project": "inside", "next": "inside", **knobs}
    return Options("cortex-a710", schedules={node.name: values for node in graph.nodes})


@pytest.mark.parametrize("path", ["dotprod", pytest.param("i8mm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("band_rows", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_bands_of_a_chain(kernel: int, stride: int, band_rows: int, path: str, tmp_path: Path) -> None:
    graph = _chain(kernel, stride)
    options = _options(graph, band_rows=band_rows)
    library = check_graph(graph, path, tmp_path / "library", options=options)
    source = (tmp_path / "library" / f"rings_{path}.c").read_text()
    # The first block computes what the second one wants, so its window is a ring with one band too.
    assert "ring_rows_dotprod(at_1" in source and "_ring_dotprod(const depthwise_call" in source
    assert library.manifest["programs"][path]["notes"] == []


@pytest.mark.parametrize("path", ["dotprod", pytest.param("i8mm", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_bands_of_groups_of_channels(kernel: int, stride: int, path: str, tmp_path: Path) -> None:
    graph = _groups(kernel, stride)
    options = _options(graph, band_rows=2, group=4)
    check_graph(graph, path, tmp_path / "library", options=options, parallel=True)
    source = (tmp_path / "library" / f"groups_{path}.c").read_text()
    assert "ring_rows_dotprod(at," in source and "for (int32_t quad = " in source


def _apart(height: int, width: int, kernel: int | tuple[int, int], **depthwise: object) -> Graph:
    b = Builder(height, "apart")
    x = b.conv(b.input(height, width, 8), 32)
    return b.finish(b.conv(b.depthwise(x, kernel, **depthwise), 8))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", strict_compilers())
@pytest.mark.parametrize(
    ("graph", "knobs"),
    [
        # With dilation no product reads some rows of the window.
        (_apart(29, 30, 3, dilation=4, pad=(4, 4, 4, 4)), {"band_rows": 2}),
        (_apart(21, 13, 5, dilation=2, pad=(4, 4, 4, 4)), {"band_rows": 3, "blocks": 4}),
        # Without padding nothing lies outside of the image.
        (_apart(22, 24, 3), {"band_rows": 2}),
        # The first windows lie above the image as a whole.
        (_apart(12, 19, (1, 3), pad=(2, 1, 2, 1)), {"band_rows": 1}),
    ],
)
def test_unusual_windows(graph: Graph, knobs: dict[str, int], compiler: str, tmp_path: Path) -> None:
    check_graph(graph, "dotprod", tmp_path / "library", options=_options(graph, **knobs), parallel=True)
    compile_strictly(tmp_path / "library", compiler)
