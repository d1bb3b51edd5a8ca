"""Sums and products that broadcast: the reference against NumPy, every path against the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.passes import run_passes
from mnv3c.paths import registry
from mnv3c.reference import integer
from tests.graphs import Builder, random_inputs
from tests.paths import broadcasts
from tests.paths.harness import check_graph, compile_graph, compile_strictly, strict_compilers

CHANNELS = (1, 3, 5, 8, 17)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_repeated_operand_means_the_one_written_out(channels: int) -> None:
    whole = (3, 4, channels)
    for seed in range(len(broadcasts.OPERATORS)):
        graph = broadcasts.graph(whole, seed)
        values = integer.run(graph, random_inputs(graph, seed), keep=True)
        for node in graph.nodes:
            if isinstance(node, q.QConv):
                continue
            written_out = {name: np.broadcast_to(values[name], whole) for name in node.inputs}
            integer.execute(graph, node, written_out)
            np.testing.assert_array_equal(written_out[node.output], values[node.output], err_msg=node.name)


@pytest.mark.parametrize("seed", range(0, len(broadcasts.OPERATORS), 3))
def test_ref_is_bit_equal(seed: int, tmp_path: Path) -> None:
    whole = (3, 4, CHANNELS[seed % len(CHANNELS)])
    check_graph(broadcasts.graph(whole, seed), "ref", tmp_path / "net", parallel=seed == 1)


@pytest.mark.slow
@pytest.mark.parametrize("channels", (*CHANNELS, 24))
@pytest.mark.parametrize("path", [p for p in registry.available() if p != "ref"])
def test_every_path_is_bit_equal(path: str, channels: int, tmp_path: Path) -> None:
    graph = broadcasts.graph((5, 6, channels), channels)
    library = check_graph(graph, path, tmp_path / "net", runs=1)
    notes = library.manifest["programs"][path]["notes"]
    assert any("falls back to a portable kernel" in note for note in notes)


@pytest.mark.parametrize("compiler", strict_compilers())
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    for seed in (0, 3):
        compile_graph(broadcasts.graph((3, 4, 5), seed), "ref", tmp_path / f"net{seed}")
        compile_strictly(tmp_path / f"net{seed}", compiler)


def test_a_sum_that_broadcasts_is_not_fused() -> None:
    b = Builder(1)
    x = b.input(4, 5, 6)
    vector = b.input(1, 1, 6)
    graph = b.finish(b.add(b.conv(x, 6, dtype="int16", target=4000.0), vector))
    assert [type(n) for n in run_passes(graph)] == [q.QConv, q.QAdd]
