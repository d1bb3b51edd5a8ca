"""Generated C against the NumPy reference, every bit, for random operators that move pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.verify import verify
from mnv3c.passes import run_passes
from mnv3c.passes.fold_padding import fold_padding
from mnv3c.paths import registry
from mnv3c.reference import integer
from tests.graphs import Builder, random_inputs
from tests.paths.harness import check_graph, compile_graph, compile_strictly, strict_compilers
from tests.spatial.graphs import KINDS, every_operator


@pytest.mark.parametrize("seed", range(3))
def test_ref_is_bit_equal(seed: int, tmp_path: Path) -> None:
    check_graph(every_operator(seed, 4), "ref", tmp_path / "net", parallel=seed == 1)


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in registry.available() if p not in ("ref", "armv7")])
def test_other_paths_fall_back(path: str, tmp_path: Path) -> None:
    check_graph(every_operator(7, 2), path, tmp_path / "net", runs=1)


@pytest.mark.parametrize("compiler", strict_compilers())
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    compile_graph(every_operator(11, 4), "ref", tmp_path / "net")
    compile_strictly(tmp_path / "net", compiler)


@pytest.mark.parametrize("seed", range(20))
def test_passes_change_no_bit(seed: int) -> None:
    graph = every_operator(seed, 2)
    fused = run_passes(graph)
    assert any(isinstance(n, q.FusedResizeArgMax) for n in fused)
    inputs = random_inputs(graph, seed)
    want, got = integer.run(graph, inputs), integer.run(fused, inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_every_kind_is_drawn() -> None:
    found = {type(n) for seed in range(5) for n in every_operator(seed)}
    every = (
        q.QResize,
        q.QArgMax,
        q.QSigmoid,
        q.QSoftmax,
        q.QAdd16,
        q.QAveragePool,
        q.QWindowMean,
        q.QConcat,
        q.QSlice,
        q.QSpread,
    )
    assert found == set(every)
    assert len(KINDS) == 10


@pytest.mark.parametrize("pad", [(1, 0, 2, 1), (0, 0, 0, 0)])
def test_padding_folds_into_the_convolution_behind_it(pad: tuple[int, int, int, int]) -> None:
    b = Builder(3)
    x = b.input(6, 7, 3, zero_point=(-9,))
    height, width = 6 + 2 + 1, 7 + 1 + 3
    b.tensors["padded"] = Tensor("padded", (height, width, 3), "int8", b.tensors[x].quant)
    b.nodes.append(q.QSpread("pad", (x,), ("padded",), pad=(2, 1, 1, 3)))
    graph = b.finish(b.conv("padded", 5, 3, stride=2, pad=pad))
    folded = fold_padding(graph)
    assert [type(n) for n in folded.nodes] == [q.QConv]
    inputs = random_inputs(graph, 0)
    want, got = integer.run(graph, inputs), integer.run(verify(folded), inputs)
    np.testing.assert_array_equal(got[graph.outputs[0]], want[graph.outputs[0]])
    both = b.finish("padded", graph.outputs[0])
    assert fold_padding(both) == both
