"""Every operator of the dotprod path against the NumPy reference, on shapes that do not fit its tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnv3c.codegen.program import Options
from mnv3c.ir.graph import Graph
from tests.graphs import Builder, inverted_residual
from tests.paths.harness import check_graph, compile_graph, compile_strictly, strict_compilers

PATH = "dotprod"


def _pointwise(b: Builder, rng: np.random.Generator) -> str:
    height, width = (int(n) for n in rng.integers(1, 17, 2))
    x = b.input(height, width, int(rng.integers(1, 50)))
    out = int(rng.integers(1, 40))
    kind = int(rng.integers(4))
    if kind == 0:
        return b.conv(x, out, offset=True, low=-100, high=90, shift=int(rng.integers(0, 3)))
    if kind == 1:
        y = b.conv(x, out, dtype="int16")
        return b.hard_swish(y, shift=int(rng.integers(0, 8)), per_channel=bool(rng.integers(2)))
    if kind == 2:
        y = b.conv(x, out, dtype="int16", target=float(rng.integers(1000, 20000)))
        other = b.conv(x, out)
        low = int(rng.integers(-128, 0))
        return b.add(y, other, fraction=int(rng.integers(1, 8)), bias=int(rng.integers(-99, 99)), low=low)
    return b.requantize(b.channel_sum(b.conv(x, out)), height * width)


def _depthwise(b: Builder, rng: np.random.Generator) -> str:
    channels = int(rng.integers(1, 40))
    height, width = (int(n) for n in rng.integers(3, 20, 2))
    zero_point = b.zero_points(channels, bool(rng.integers(2)))
    x = b.input(height, width, channels, zero_point=zero_point)
    if rng.integers(2):  # an expansion before it, which stays inside its stage
        x = b.conv(x, int(rng.integers(2, 60)), zero_point=b.zero_points(1, False))
    kernel = (int(rng.choice([1, 3, 5, 7])), int(rng.choice([3, 5])))
    stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    dilation = int(rng.choice([1, 1, 1, 2, 3]))
    pad = [int(n) for n in rng.integers(0, 1 + dilation * max(kernel) // 2, 4)]
    # The window must fit into the padded image.
    pad[0] += max(0, dilation * (kernel[0] - 1) + 1 - height)
    pad[1] += max(0, dilation * (kernel[1] - 1) + 1 - width)
    padding = (pad[0], pad[1], pad[2], pad[3])
    swish = bool(rng.integers(2))
    dtype = "int16" if swish else "int8"
    y = b.depthwise(x, kernel, stride=stride, pad=padding, dilation=dilation, dtype=dtype)
    if swish:
        y = b.hard_swish(y, per_channel=bool(rng.integers(2)))
    if rng.integers(2):
        shape = b.tensors[y].shape
        y = b.squeeze_excite(y, 8) if shape[0] * shape[1] > 1 else y
    return y


def _dense(b: Builder, rng: np.random.Generator) -> str:
    channels = int(rng.integers(1, 9))
    height, width = (int(n) for n in rng.integers(4, 18, 2))
    x = b.input(height, width, channels, zero_point=b.zero_points(channels, True))
    kernel = (int(rng.integers(1, 5)), int(rng.integers(2, 5)))
    pad = tuple(int(n) for n in rng.integers(0, 3, 4))
    groups = channels if rng.integers(4) == 0 else 1
    out = groups * int(rng.integers(1, 20 // groups + 2))
    stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    y = b.conv(x, out, kernel, stride=stride, pad=pad, groups=groups, dtype="int16")  # type: ignore[arg-type]
    return b.hard_swish(y, per_channel=True)


def _vector(b: Builder, rng: np.random.Generator) -> str:
    x = b.input(1, 1, int(rng.integers(1, 100)))
    kind = int(rng.integers(4))
    out = int(rng.integers(1, 70))
    if kind == 0:
        return b.conv(x, out, offset=True, low=-90)
    if kind == 1:
        return b.hard_sigmoid(b.conv(x, out, dtype="int16", target=12000.0))
    if kind == 2:
        return b.hard_swish(b.conv(x, out, dtype="int16"), per_channel=bool(rng.integers(2)))
    return b.conv(b.conv(x, out, low=0), int(rng.integers(1, 30)), dtype="int16")


def _block(b: Builder, rng: np.random.Generator) -> str:
    channels = int(rng.integers(1, 7)) * 4
    height, width = (int(n) for n in rng.integers(5, 30, 2))
    return inverted_residual(
        b,
        b.input(height, width, channels),
        int(rng.integers(2, 12)) * 4,
        channels if rng.integers(2) else int(rng.integers(3, 40)),
        int(rng.choice([3, 5])),
        int(rng.integers(1, 3)),
        reduced=int(rng.choice([0, 8])),
        swish=bool(rng.integers(2)),
        per_channel=bool(rng.integers(2)),
    )


KINDS: dict[str, Callable[[Builder, np.random.Generator], str]] = {
    "pointwise": _pointwise,
    "depthwise": _depthwise,
    "dense": _dense,
    "vector": _vector,
    "block": _block,
}


def _graph(kind: str, seed: int) -> Graph:
    b = Builder(seed, f"{kind}{seed}")
    return b.finish(KINDS[kind](b, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_random_shapes(kind: str, seed: int, tmp_path: Path) -> None:
    check_graph(_graph(kind, seed), PATH, tmp_path / "library")


@pytest.mark.parametrize("kind", KINDS)
def test_in_order_tuning(kind: str, tmp_path: Path) -> None:
    options = Options(tuning="cortex-a55")
    library = check_graph(_graph(kind, 1), PATH, tmp_path / "library", options=options)
    sources = (library.directory / f"{library.name}_{PATH}.c").read_text()
    assert ("_a55(" in sources) or kind in ("vector", "depthwise")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 23))
@pytest.mark.parametrize("kind", KINDS)
def test_more_random_shapes(kind: str, seed: int, tmp_path: Path) -> None:
    check_graph(_graph(kind, seed), PATH, tmp_path / "library")


def test_large_map_is_projected_band_by_band(tmp_path: Path) -> None:
    b = Builder(7, "bands")
    x = b.input(60, 56, 8)
    x = inverted_residual(b, x, 24, 8, 3, 1, swish=False)
    x = inverted_residual(b, x, 72, 12, 5, 2)
    options = Options(memory="small")
    library = check_graph(b.finish(x), PATH, tmp_path / "library", runs=1, options=options)
    layers = library.manifest["programs"][PATH]["layers"]
    steps = "1x1, depthwise 3x3, 1x1, 1x1, depthwise 5x5, 1x1"
    sizes = "60x56x8 to 60x56x24 to 60x56x8 to 30x28x72 to 30x28x12"
    assert layers[1]["title"] == f"{steps}: {sizes}"
    # No tensor between the two ends is stored as a whole.
    assert library.arena_bytes < 60 * 56 * (8 + 24)


def test_bytes_are_flipped_while_the_first_convolution_reads(tmp_path: Path) -> None:
    b = Builder(8, "flip")
    image = b.flip_sign(b.input(17, 23, 3, dtype="uint8"))
    x = b.hard_swish(b.conv(image, 16, 3, stride=2, pad=(0, 1, 1, 1), dtype="int16"))
    library = check_graph(b.finish(x), PATH, tmp_path / "library")
    assert library.manifest["programs"][PATH]["layers"][0]["nodes"] == ["flip0", "conv1"]


def test_pool_of_the_head_stores_no_map(tmp_path: Path) -> None:
    b = Builder(9, "head")
    x = b.hard_swish(b.conv(b.input(7, 7, 24), 96, dtype="int16"), per_channel=True)
    library = check_graph(
        b.finish(b.conv(b.requantize(b.channel_sum(x), 49), 10)), PATH, tmp_path / "library"
    )
    assert library.arena_bytes < 7 * 7 * 96


@pytest.mark.parametrize("compiler", strict_compilers())
@pytest.mark.parametrize("tuning", ["generic", "cortex-a55"])
def test_no_warnings(compiler: str, tuning: str, tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        compile_graph(_graph(kind, 1), PATH, folder, Options(tuning=tuning))
        compile_strictly(folder, compiler)
