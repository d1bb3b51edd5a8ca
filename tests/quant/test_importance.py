"""Importances against differences: what a small change of a tensor really does to the outputs."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Tensor
from mnv3c.quant import batched
from mnv3c.quant.importance import importance

from .networks import block_network, build, conv, inputs


def _outputs(graph: Graph, values: dict[str, np.ndarray], name: str, change: np.ndarray) -> np.ndarray:
    """The first output, less its channels' mean, with ``change`` added to a tensor."""
    now = {graph.inputs[0]: values[graph.inputs[0]]}
    if name in now:
        now[name] = now[name] + change
    for node in graph.nodes:
        now[node.output] = batched.float_node(graph, node, [now[i] for i in node.inputs])
        if node.output == name:
            now[name] = now[name] + change
    y = now[graph.outputs[0]].astype(np.float64)
    return y - y.mean(axis=3, keepdims=True)


def _pools(kind: str, include: bool) -> Graph:
    rng = np.random.default_rng(5)
    pool = f.Pool("b", ("a",), ("b",), kind, (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=include)
    nodes = [conv(rng, "a", "x", 3, 6), pool, conv(rng, "c", "b", 6, 5)]
    return build((8, 8, 3), nodes)


@pytest.mark.parametrize(
    ("graph", "seed"),
    [
        (block_network(0), 0),
        (block_network(1), 1),
        (_pools("max", False), 2),
        (_pools("average", False), 3),
        (_pools("average", True), 4),
    ],
)
def test_importance_is_the_effect_of_a_small_change(graph: Graph, seed: int) -> None:
    batch = np.stack(inputs(graph, 16, seed))
    values = dict(batched.trace_float(graph, batch))
    found = importance(graph, batch, np.random.default_rng(0))
    assert set(found) == set(values)
    rng = np.random.default_rng(1)
    want = _outputs(graph, values, "", np.zeros(1))
    ratios = []
    for name, value in values.items():
        scale = 1e-3 * float(np.abs(value).mean() + 1e-6)
        got = []
        for _ in range(4):
            change = rng.choice([-scale, scale], value.shape).astype(np.float32)
            moved = _outputs(graph, values, name, change) - want
            got.append(np.square(moved).sum() / np.square(want).sum())
        ratios.append(float(found[name].sum()) * scale**2 / np.mean(got))
    # Two directions an image: single tensors are uncertain, all together less so.
    assert 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25
    assert min(ratios) > 0.3 and max(ratios) < 3


def test_unknown_operators_leave_it_open() -> None:
    graph = block_network(0)
    shape = graph.tensor(graph.outputs[0]).shape
    tensors = {**graph.tensors, "odd": Tensor("odd", shape)}
    odd = f.Spread("odd", graph.outputs, ("odd",))
    graph = graph.replace(nodes=(*graph.nodes, odd), tensors=tensors, outputs=("odd",))
    assert importance(graph, np.stack(inputs(graph, 2, 0)), np.random.default_rng(0)) == {}
