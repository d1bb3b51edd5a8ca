"""The verifier refuses what is malformed, and says where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.ir.printer import print_graph
from mnv3c.ir.verify import InvalidGraph, verify
from tests.graphs import Builder


def graph() -> Graph:
    b = Builder()
    x = b.conv(b.input(6, 6, 4), 8, 3)
    return b.finish(b.hard_swish(b.conv(x, 8, dtype="int16")))


def with_conv(**changes: object) -> Graph:
    g = graph()
    return g.map_nodes(lambda n: dataclasses.replace(n, **changes) if n.name == "conv0" else n)  # type: ignore[arg-type]


def with_tensor(**changes: object) -> Graph:
    g = graph()
    tensors = dict(g.tensors)
    tensors["conv0_out"] = dataclasses.replace(tensors["conv0_out"], **changes)  # type: ignore[arg-type]
    return g.replace(tensors=tensors)


CASES: dict[str, Callable[[], Graph]] = {
    "before it is written": lambda: graph().replace(nodes=graph().nodes[::-1]),
    "two nodes of one name": lambda: graph().map_nodes(lambda n: dataclasses.replace(n, name="same")),
    "never written": lambda: graph().replace(nodes=graph().nodes[:-1]),
    "weights take": lambda: with_conv(weight=np.ones((8, 3, 3, 5), np.int8)),
    "weight of -128": lambda: with_conv(weight=np.full((8, 3, 3, 4), -128, np.int8)),
    "weight must be int8": lambda: with_conv(weight=np.ones((8, 3, 3, 4), np.int32)),
    "bias of shape": lambda: with_conv(bias=np.zeros(7, np.int32)),
    "accumulator can overflow": lambda: with_conv(bias=np.full(8, 2**31 - 1, np.int32)),
    "multiplier int32 a channel": lambda: with_conv(requant=q.Requant(np.ones(3, np.int32))),
    "negative multiplier": lambda: with_conv(requant=q.Requant(np.full(8, -1, np.int32))),
    "clamp outside": lambda: with_conv(requant=q.Requant(np.ones(8, np.int32), low=5, high=4)),
    "output shape": lambda: with_tensor(shape=(5, 4, 8)),
    "not positive": lambda: with_tensor(shape=(0, 4, 8)),
    "unknown dtype": lambda: with_tensor(dtype="int4"),
    "2 scale values": lambda: with_tensor(quant=Quant((1.0, 2.0))),
    "scale must be positive": lambda: with_tensor(quant=Quant((0.0,))),
}


@pytest.mark.parametrize("rule", CASES)
def test_refuses(rule: str) -> None:
    with pytest.raises(InvalidGraph, match=rule):
        verify(CASES[rule]())


def test_accepts_what_is_well_formed_and_returns_it() -> None:
    g = graph()
    assert verify(g) is g


def test_graphs_are_immutable() -> None:
    g = graph()
    with pytest.raises(dataclasses.FrozenInstanceError):
        g.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        g.tensors["x"] = Tensor("x", (1, 1, 1))  # type: ignore[index]


def test_printer_shows_every_node_once() -> None:
    text = print_graph(graph())
    assert text.count("\n") == len(graph().nodes) + 2
    assert "swish2_out: int8 4x4x8" in text
    assert "QConv(input0){weight=int8[8,3,3,4], bias=int32[8], requant=Requant{" in text
