"""Convolutions of one group whose windows are gathered first, and sums behind them; also on ``i8mm``."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.ir.graph import Graph
from tests.graphs import Builder
from tests.paths.dotprod.test_quantized_models import PATHS
from tests.paths.harness import check_graph, compile_strictly, strict_compilers

# Kernel, stride, padding, dilation.
WINDOWS = [(3, 1, 1, 1), (3, 2, 0, 1), (2, 1, 0, 1), (3, 1, 2, 2), (5, 2, 2, 1)]


def _dense(channels: int, kernel: int, stride: int, pad: int, dilation: int) -> Graph:
    b = Builder(channels + kernel, f"dense{channels}")
    x = b.conv(b.input(9, 11, 6, zero_point=(-7,)), channels, zero_point=(12,))
    return b.finish(b.conv(x, 10, kernel, stride=stride, pad=(pad,) * 4, dilation=dilation))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("channels", [4, 5, 12, 36])  # words, bytes, several words, vectors and a word
@pytest.mark.parametrize("window", WINDOWS[:3])
def test_windows(window: tuple[int, int, int, int], channels: int, path: str, tmp_path: Path) -> None:
    library = check_graph(_dense(channels, *window), path, tmp_path / "library", runs=1)
    assert library.manifest["notes"] == []
    for compiler in strict_compilers() if window == WINDOWS[0] else ():
        compile_strictly(library.directory, compiler)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("channels", [4, 5, 8, 16, 20, 40])
@pytest.mark.parametrize("window", WINDOWS)
def test_more_windows(window: tuple[int, int, int, int], channels: int, path: str, tmp_path: Path) -> None:
    check_graph(_dense(channels, *window), path, tmp_path / "library", runs=1)


def test_a_network_with_both_kinds_of_windows(tmp_path: Path) -> None:
    b = Builder(3, "both")
    x = b.conv(b.conv(b.input(9, 9, 6), 5), 8, 3)
    library = check_graph(b.finish(b.conv(x, 7, 3)), "dotprod", tmp_path / "library")
    for compiler in strict_compilers():
        compile_strictly(library.directory, compiler)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [(8, 8, 12), (7, 9, 8), (5, 6, 13)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_sums_behind(kernel: int, size: tuple[int, int, int], path: str, tmp_path: Path) -> None:
    """Squeeze-and-excite behind a convolution that is not depthwise."""
    b = Builder(size[2], f"sums{kernel}")
    x = b.conv(b.input(*size), 8)
    y = b.conv(x, 24, kernel, pad=(kernel // 2,) * 4)
    gate = b.conv(b.requantize(b.channel_sum(y), size[0] * size[1]), 24)
    library = check_graph(b.finish(b.conv(b.multiply(y, gate), 9)), path, tmp_path / "library", runs=1)
    assert library.manifest["notes"] == []
