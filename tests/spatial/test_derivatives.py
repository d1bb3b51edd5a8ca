"""Derivatives of resize and pool by finite differences, and importances of a segmentation network."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Tensor
from mnv3c.quant import map_derivatives as maps
from mnv3c.quant.importance import importance
from mnv3c.reference import floating
from tests.spatial.test_quant import Net

NODES = {
    "bilinear": (f.Resize("r", ("x",), ("y",), "bilinear", "half_pixel"), (7, 9, 2)),
    "corners": (f.Resize("r", ("x",), ("y",), "bilinear", "align_corners"), (9, 3, 2)),
    "nearest": (f.Resize("r", ("x",), ("y",), "nearest", "asymmetric"), (8, 10, 2)),
    "pool": (f.Pool("p", ("x",), ("y",), "average", (3, 2), (1, 3)), (2, 2, 2)),
    "padded": (f.Pool("p", ("x",), ("y",), "average", (3, 3), (2, 2), (1, 1, 1, 1), True), (2, 3, 2)),
}


@pytest.mark.parametrize("groups", [1, 2])
def test_derivative_of_softmax(groups: int) -> None:
    node = f.Softmax("s", ("x",), ("y",), groups)
    rng = np.random.default_rng(0)
    x, step, gradient = (rng.normal(0, 1, (2, 3, 4, 6)) for _ in range(3))
    graph = Graph("one", (node,), {n: Tensor(n, (3, 4, 6)) for n in "xy"}, ("x",), ("y",))
    above, below = (maps.FORWARD[f.Softmax](graph, node, x + sign * 1e-5 * step) for sign in (1, -1))
    (back,) = maps.BACKWARD[f.Softmax](node, [x], gradient)
    want = float(((above - below) / 2e-5 * gradient).sum())
    assert float((back * step).sum()) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", NODES)
def test_derivative_is_the_transpose(name: str) -> None:
    """Both are linear: <A x, g> = <x, A' g>, and A x is what the executor computes."""
    node, shape = NODES[name]
    rng = np.random.default_rng(0)
    x, gradient = rng.normal(0, 1, (2, 4, 5, 2)), rng.normal(0, 1, (2, *shape))
    graph = Graph("one", (node,), {"x": Tensor("x", (4, 5, 2)), "y": Tensor("y", shape)}, ("x",), ("y",))
    y = maps.FORWARD[type(node)](graph, node, x)
    want = [floating.run(graph, {"x": one})["y"] for one in x.astype(np.float32)]
    np.testing.assert_allclose(y, want, atol=1e-5)
    (back,) = maps.BACKWARD[type(node)](node, [x], gradient)
    assert float((y * gradient).sum()) == pytest.approx(float((x * back).sum()))


def test_a_segmentation_network_has_importances() -> None:
    net = Net(6, 8, 3)
    data = net.act(net.conv("x", 4))
    pooled = net.emit(f.Pool, (data,), (2, 2, 4), kind="average", kernel=(3, 5), stride=(3, 3))
    gate = net.resize(net.act(net.conv(pooled, 4), "sigmoid"), 6, 8)
    logits = net.conv(net.emit(f.Multiply, (data, gate), (6, 8, 4)), 3)
    classes = net.emit(f.ArgMax, (net.resize(logits, 24, 32),), (24, 32, 1))
    batch = np.random.default_rng(0).normal(0, 1, (3, 6, 8, 3)).astype(np.float32)
    found = importance(net.finish(classes), batch, np.random.default_rng(1))
    assert {data, pooled, gate, logits} <= set(found)
    assert all((v >= 0).all() and np.isfinite(v).all() and v.any() for v in found.values())
