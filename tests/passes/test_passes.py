"""Each pass keeps every bit, leaves a well-formed graph, and does what its docstring shows."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.ir.verify import verify
from mnv3c.passes import PIPELINE, run_passes
from mnv3c.passes.eliminate_dead_nodes import eliminate_dead_nodes
from mnv3c.passes.fuse_activation import fuse_activation
from mnv3c.passes.fuse_channel_sum import fuse_channel_sum
from mnv3c.passes.fuse_residual import fuse_residual
from mnv3c.reference import integer
from tests.graphs import Builder, inverted_residual, random_inputs


def network(seed: int = 0) -> Graph:
    b = Builder(seed)
    x = b.hard_swish(b.conv(b.input(12, 11, 3), 8, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 24, 8, 3, 1, reduced=8)
    x = inverted_residual(b, x, 20, 12, 5, 2, swish=False)
    y = b.requantize(b.channel_sum(x), 9)
    return b.finish(b.conv(y, 10, dtype="int16"))


def kinds(graph: Graph) -> list[str]:
    return [type(n).__name__ for n in graph.nodes]


@pytest.mark.parametrize("seed", range(3))
def test_no_pass_changes_a_bit(seed: int) -> None:
    graph = network(seed)
    inputs = random_inputs(graph, seed)
    want = integer.run(graph, inputs)
    for step in PIPELINE:
        graph = verify(step(graph))
        got = integer.run(graph, inputs)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value, err_msg=step.__name__)
            assert value.std() > 0


def test_passes_are_observed_in_order() -> None:
    seen: list[str] = []
    run_passes(network(), lambda name, _: seen.append(name))
    assert seen == [step.__name__ for step in PIPELINE]


def test_a_pass_run_twice_changes_nothing_more() -> None:
    once = run_passes(network())
    assert kinds(run_passes(once)) == kinds(once)


def test_fused_network_has_no_int16_map_left() -> None:
    fused = run_passes(network())
    maps = [t for t in fused.tensors.values() if t.dtype == "int16" and t.shape[0] > 1]
    assert maps == []


def test_activation_is_not_fused_where_the_convolution_is_read_twice() -> None:
    b = Builder()
    t = b.conv(b.input(4, 4, 4), 4, dtype="int16")
    graph = b.finish(b.hard_swish(t), t)
    assert kinds(fuse_activation(graph)) == ["QConv", "QHardSwish"]


def test_residual_joins_the_projection_and_keeps_the_shortcut() -> None:
    b = Builder()
    x = b.input(4, 4, 4)
    graph = fuse_residual(b.finish(b.add(x, b.conv(x, 4, dtype="int16"))))
    (node,) = graph.nodes
    assert isinstance(node, q.FusedConv)
    assert node.residual is not None
    assert node.inputs == (x, x)


def test_residual_of_an_int8_convolution_stays_apart() -> None:
    b = Builder()
    x = b.input(4, 4, 4)
    assert kinds(fuse_residual(b.finish(b.add(x, b.conv(x, 4))))) == ["QConv", "QAdd"]


def test_add_of_two_projections_takes_the_later_one() -> None:
    b = Builder()
    x = b.input(5, 5, 4)
    graph = b.finish(b.add(b.conv(x, 4, dtype="int16"), b.conv(x, 4, 3, pad=(1, 1, 1, 1), dtype="int16")))
    fused = verify(fuse_residual(graph))
    assert kinds(fused) == ["QConv", "FusedConv"]
    inputs = random_inputs(graph)
    name = graph.outputs[0]
    np.testing.assert_array_equal(integer.run(fused, inputs)[name], integer.run(graph, inputs)[name])


def test_channel_sum_joins_its_producer() -> None:
    b = Builder()
    y = b.depthwise(b.input(6, 6, 8), 3, pad=(1, 1, 1, 1))
    graph = fuse_channel_sum(b.finish(y, b.channel_sum(y)))
    (node,) = graph.nodes
    assert isinstance(node, q.FusedConv) and node.channel_sum is not None
    assert node.outputs == graph.outputs


def test_dead_nodes_and_their_tensors_go() -> None:
    b = Builder()
    x = b.input(4, 4, 4)
    b.conv(b.conv(x, 8), 8)
    kept = b.conv(x, 4)
    graph = eliminate_dead_nodes(b.finish(kept))
    assert kinds(graph) == ["QConv"]
    assert set(graph.tensors) == {x, kept}
