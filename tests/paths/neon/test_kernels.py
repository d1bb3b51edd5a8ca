"""Every kernel of the neon path against the NumPy reference, bit for bit, on odd shapes too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnv3c.codegen.program import Options
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from tests.graphs import Builder, inverted_residual
from tests.paths.harness import check_graph, compile_graph, compile_strictly, strict_compilers
from tests.paths.real_threads import can_run, check_threads


def pointwise() -> Graph:
    b = Builder(1, "pointwise")
    outputs = []
    for i, (height, width, depth, out) in enumerate(
        [(1, 1, 8, 8), (1, 2, 40, 20), (1, 5, 3, 9), (7, 7, 24, 32), (3, 11, 72, 12), (1, 1, 200, 1001)]
    ):
        x = b.conv(b.input(height, width, depth), depth + 8)
        outputs.append(b.conv(x, out, low=-90 if i % 2 else -128, high=100, offset=i % 3 == 0))
    return b.finish(*outputs)


def epilogues() -> Graph:
    b = Builder(2, "epilogues")
    x = b.conv(b.input(5, 7, 16), 24)
    swish = b.hard_swish(b.conv(x, 40, dtype="int16", shift=1), 3, per_channel=True)
    outputs = [swish, b.hard_sigmoid(b.conv(x, 16, dtype="int16")), b.lut(b.conv(x, 24))]
    outputs.append(b.add(b.conv(x, 24, dtype="int16", target=4000.0), x, fraction=3, bias=70, low=-80))
    wide = b.conv(x, 16, dtype="int16", target=4000.0)
    outputs.append(b.add(wide, b.conv(x, 16, dtype="int16", target=4000.0), fraction=7))
    return b.finish(*outputs)


def depthwise() -> Graph:
    b = Builder(3, "depthwise")
    outputs = []
    for height, width, channels, kernel, stride, pad, dilation in [
        (7, 7, 24, 3, 1, (1, 1, 1, 1), 1),
        (9, 13, 20, 5, 2, (2, 2, 2, 2), 1),
        (6, 16, 8, 3, 2, (0, 0, 1, 1), 1),
        (11, 10, 17, 3, 1, (2, 2, 2, 2), 2),
        (5, 8, 9, 7, 1, (3, 3, 3, 3), 1),
        (1, 1, 16, 3, 1, (1, 1, 1, 1), 1),
    ]:
        x = b.conv(b.input(height, width, 8), channels, zero_point=b.zero_points(channels, stride == 1))
        outputs.append(b.depthwise(x, kernel, stride=stride, pad=pad, dilation=dilation))
        outputs.append(b.hard_swish(b.depthwise(x, kernel, pad=pad, dtype="int16", dilation=dilation)))
    return b.finish(*outputs)


def windows() -> Graph:
    b = Builder(4, "windows")
    image = b.input(15, 17, 3, zero_point=(5,))
    outputs = [
        b.hard_swish(b.conv(image, 16, 3, stride=2, pad=(0, 0, 1, 1), dtype="int16")),
        b.conv(image, 9, 5, stride=(1, 2), pad=(2, 0, 1, 3)),
        b.conv(image, 24, (1, 3), dilation=2),
        b.conv(image, 8, 1, stride=3),
        b.conv(image, 6, 3, groups=3),
        b.max_pool(image, 3, 2, (1, 1, 1, 1)),
    ]
    return b.finish(*outputs)


def blocks() -> Graph:
    b = Builder(5, "blocks")
    x = b.hard_swish(b.conv(b.input(28, 28, 3), 16, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 16, 16, 3, 1, swish=False)
    x = inverted_residual(b, x, 64, 24, 3, 2)
    x = inverted_residual(b, x, 72, 24, 5, 1, swish=False)
    x = inverted_residual(b, x, 72, 40, 5, 1, reduced=24)
    x = inverted_residual(b, x, 240, 40, 5, 1, reduced=64)
    x = b.hard_swish(b.conv(x, 88, dtype="int16"))
    pooled = b.requantize(b.channel_sum(x), 49)
    return b.finish(b.conv(b.hard_swish(b.conv(pooled, 96, dtype="int16")), 10, dtype="int16"))


def stem() -> Graph:
    """A stem and blocks on maps so large that several of them run as one pipeline."""
    b = Builder(11, "stem")
    image = b.input(113, 161, 3, zero_point=(7,))
    x = b.hard_swish(b.conv(image, 32, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"), per_channel=True)
    x = inverted_residual(b, x, 32, 32, 3, 1, swish=False)
    x = inverted_residual(b, x, 40, 32, 5, 1)
    x = inverted_residual(b, x, 48, 32, 3, 1)
    x = inverted_residual(b, x, 56, 16, 3, 2)
    return b.finish(inverted_residual(b, x, 40, 16, 5, 2, reduced=8))


def tables() -> Graph:
    """Models that quantise before their h-swish look it up, in every kind of stage."""
    b = Builder(12, "tables")
    x = b.lut(b.conv(b.input(33, 35, 3), 16, 3, stride=2, pad=(1, 1, 1, 1)))
    for channels, out, stride in ((64, 24, 2), (96, 24, 1), (200, 40, 1)):
        x = b.lut(b.conv(x, channels))
        x = b.lut(b.depthwise(x, 5, stride=stride, pad=(2, 2, 2, 2)))
        x = b.conv(x, out)
    wide = b.lut(b.conv(x, 136))
    return b.finish(x, b.lut(b.conv(wide, 17)), b.requantize(b.channel_sum(wide), 9 * 9))


def second_rounding() -> Graph:
    """Convolutions whose requantisation rounds twice, as TFLite's built-in kernels do."""
    graph, rng = blocks(), np.random.default_rng(0)

    def add_right(node: Node) -> Node:
        if not isinstance(node, q.QConv):
            return node
        right = rng.integers(0, 4, node.weight.shape[0]).astype(np.int8)
        return replace(node, requant=replace(node.requant, right=right))

    return graph.map_nodes(add_right)


def wide_weights() -> Graph:
    """Weights of 9 bits, each channel's spanning 8, in every kind of convolution; the last one spans 9."""
    b = Builder(8, "wide")
    x = b.hard_swish(b.conv(b.input(21, 23, 3), 16, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 32, 16, 3, 1, swish=False)
    x = b.lut(b.conv(x, 40))
    x = b.depthwise(x, 5, stride=2, pad=(2, 2, 2, 2))
    x = inverted_residual(b, b.conv(x, 20), 72, 20, 3, 1, reduced=8)
    x = b.conv(b.conv(b.conv(x, 104), 36), 9)
    graph = b.finish(b.conv(x, 8))

    def widen(node: Node) -> Node:
        if not isinstance(node, q.QConv):
            return node
        rng = np.random.default_rng(node.weight.size)
        if node.output == graph.outputs[0]:
            return replace(node, weight=node.weight.astype(np.int16) * 2)
        shift = rng.integers(-128, 129, (node.weight.shape[0], 1, 1, 1))
        return replace(node, weight=np.clip(node.weight + shift, -255, 255).astype(np.int16))

    return graph.map_nodes(widen)


def exact() -> Graph:
    """Sums and products of 8-bit tensors, as imported models have them, and tables on their own."""
    b = Builder(13, "exact")
    x = b.lut(b.input(9, 24, 24))
    other = b.conv(x, 24)
    for index, (right, gate) in enumerate([(0, True), (3, True), (0, False), (5, False)]):
        y = b.conv(b.requantize(b.channel_sum(x), 9 * 24), 24) if gate else other
        multiplier, shift = (1 << 30, 3) if right else (1 << 24, 0)
        node = q.QMultiply(
            f"multiply{index}",
            (x, y),
            (f"product{index}",),
            (-7, 11),
            multiplier,
            shift,
            3,
            -100,
            right=right,
        )
        x = b._add(node, (9, 24, 24), "int8")
    add = q.QAdd32("add", (x, other), ("sum",), (3_000_000, 2_500_000), 22, -12345, 5, high=90)
    x = b._add(add, (9, 24, 24), "int8")
    return b.finish(x, b.lut(b.add(b.conv(x, 24, dtype="int16", target=4000.0), x)))


def doors() -> Graph:
    """Inputs in float32 and uint8, which the first convolution takes row by row, or a stage of its own."""
    b = Builder(14, "doors")
    outputs = []
    for per_channel in (True, False):
        x = b.quantize(b.input(19, 21, 3, dtype="float32"), per_channel)
        outputs.append(b.conv(x, 16, 3, stride=2, pad=(1, 1, 1, 1)))
    x = b.flip_sign(b.input(19, 21, 3, dtype="uint8"))
    outputs.append(b.conv(x, 16, 3, pad=(1, 1, 1, 1)))
    x = b.quantize(b.input(11, 13, 5, dtype="float32"), True)
    outputs += [x, b.flip_sign(b.conv(x, 8, 3)), b.conv(b.flip_sign(b.input(7, 5, 2, dtype="uint8")), 8)]
    return b.finish(*outputs)


MAKERS = [
    pointwise,
    epilogues,
    depthwise,
    windows,
    blocks,
    second_rounding,
    wide_weights,
    stem,
    tables,
    exact,
    doors,
]


@pytest.mark.parametrize("make", MAKERS)
def test_bit_equal(make: Callable[[], Graph], tmp_path: Path) -> None:
    check_graph(make(), "neon", tmp_path / "library", runs=1)


@pytest.mark.parametrize("memory", ["fast", pytest.param("small", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [blocks, *(pytest.param(m, marks=pytest.mark.slow) for m in (stem, tables, wide_weights, exact, doors))],
)
def test_shares_in_reverse_order(make: Callable[[], Graph], memory: str, tmp_path: Path) -> None:
    check_graph(make(), "neon", tmp_path / "library", options=Options(memory=memory), runs=1, parallel=True)


@pytest.mark.slow
@pytest.mark.skipif(not can_run("arm64"), reason="no cross compiler or no qemu-aarch64")
@pytest.mark.parametrize("make", [blocks, stem, tables, epilogues, wide_weights, exact])
def test_threads(make: Callable[[], Graph], tmp_path: Path) -> None:
    graph = make()
    for memory in ("fast", "small"):
        folder = tmp_path / memory
        library = compile_graph(graph, "neon", folder, Options(memory=memory))
        check_threads(library, graph, folder)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", strict_compilers())
@pytest.mark.parametrize("make", [epilogues, windows, blocks, stem, tables, wide_weights, exact, doors])
def test_no_warnings(make: Callable[[], Graph], compiler: str, tmp_path: Path) -> None:
    compile_graph(make(), "neon", tmp_path / "library")
    compile_strictly(tmp_path / "library", compiler)


def test_wide_rows_stay_in_a_ring(tmp_path: Path) -> None:
    """The expanded tensor of a block must never be in memory as a whole."""
    b = Builder(6, "ring")
    x = b.conv(b.input(56, 56, 8), 16)
    graph = b.finish(inverted_residual(b, x, 96, 16, 3, 1, swish=False))
    for memory, most in (("fast", 56 * 56 * 96 * 6 // 10), ("small", 56 * 56 * 96 * 4 // 10)):
        library = check_graph(
            graph, "neon", tmp_path / memory, options=Options(memory=memory), runs=1, parallel=True
        )
        assert library.arena_bytes < most


def test_odd_shapes_are_noted(tmp_path: Path) -> None:
    b = Builder(7, "odd")
    graph = b.finish(b.conv(b.input(4, 4, 6), 4, 3, groups=2))
    library = check_graph(graph, "neon", tmp_path / "library")
    assert any("portable" in note for note in library.manifest["programs"]["neon"]["notes"])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    b = Builder(draw(st.integers(0, 2**16)), "drawn")
    height, width = draw(st.integers(1, 17)), draw(st.integers(1, 17))
    x = b.input(height, width, draw(st.integers(1, 40)), zero_point=(draw(st.integers(-128, 127)),))
    for _ in range(draw(st.integers(1, 3))):
        height, width, channels = b.tensors[x].shape
        kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        pad = tuple(draw(st.integers(0, 3)) for _ in range(4))
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        dilation = draw(st.integers(1, 2))
        fits = all(
            size + pad[i] + pad[i + 2] > dilation * (kernel[i] - 1) for i, size in enumerate((height, width))
        )
        kind = draw(st.sampled_from(["pointwise", "depthwise", "window", "block", "gate", "add"]))
        if kind in ("depthwise", "window") and not fits:
            kind = "pointwise"
        swish = draw(st.booleans())
        dtype = "int16" if swish else "int8"
        out = draw(st.integers(1, 50))
        if kind == "gate":
            x = b.squeeze_excite(x, 8)
        elif kind == "add":
            x = b.add(b.conv(x, channels, dtype="int16", target=4000.0), x, draw(st.integers(1, 7)))
        elif kind == "block":
            wide = draw(st.sampled_from([8, 20, 24, 40, 48]))
            x = inverted_residual(b, x, wide, draw(st.sampled_from([channels, out])), 3, 1, swish=swish)
        else:
            if kind == "pointwise":
                x = b.conv(x, out, dtype=dtype, offset=draw(st.booleans()))
            elif kind == "depthwise":
                x = b.depthwise(x, kernel, stride=stride, pad=pad, dilation=dilation, dtype=dtype)
            else:
                x = b.conv(x, out, kernel, stride=stride, pad=pad, dilation=dilation, dtype=dtype)
            if swish:
                x = b.hard_swish(x, draw(st.integers(0, 7)), per_channel=draw(st.booleans()))
    return b.finish(x if x != "input0" else b.conv(x, 8))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=graphs())
def test_any_graph(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_graph(graph, "neon", tmp_path_factory.mktemp("drawn") / "library", runs=1)
