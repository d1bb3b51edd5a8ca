"""A layer that a fast path leaves to the portable kernels is said where people look."""

from __future__ import annotations

from mnv3c.codegen.library import build_library
from mnv3c.paths.common.notes import summary
from tests.graphs import Builder


def test_layers_of_a_kind_are_one_line() -> None:
    notes = [
        "conv_1: falls back to a portable kernel (convolution 3x3, 8x8x4 to 8x8x6)",
        "unrelated: the answer is an estimate",
        "pool: falls back to a portable kernel (max pool 2x2, 8x8x6)",
        "conv_2: falls back to a portable kernel (convolution 3x3, 4x4x4 to 4x4x6)",
    ]
    expected = "neon: 3 layers fall back to portable kernels: convolution 3x3 (2), max pool 2x2"
    assert summary("neon", notes) == expected
    assert summary("neon", notes[2:3]) == "neon: 1 layer falls back to a portable kernel: max pool 2x2"
    assert summary("neon", notes[1:2]) is None


def test_a_library_says_which_paths_fall_back() -> None:
    b = Builder(1)
    x = b.conv(b.input(6, 6, 8), 8)
    y = b.softmax(x)
    said = build_library(
        b.finish(b.conv(y, 8)), ("i8mm", "dotprod", "neon", "ref"), notes=("first",)
    ).manifest["notes"]
    assert isinstance(said, list)
    assert said[0] == "first"
    assert [n.partition(":")[0] for n in said[1:]] == ["i8mm", "dotprod", "neon"]
    assert all("1 layer falls back to a portable kernel: softmax" in n for n in said[1:])
    fast = build_library(b.finish(b.conv(x, 8)), ("dotprod",))
    assert fast.manifest["notes"] == []
