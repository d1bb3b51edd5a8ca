"""Random integer graphs of sums and products that broadcast, between convolutions in layouts of a path."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from tests.graphs import Builder

OPERATORS = ("add", "add_wide", "add16", "add32", "gate", "gate16", "multiply", "multiply_twice")
_WIDE = {"add_wide": (False, True), "add16": (True, True), "gate": (False, True), "gate16": (False, True)}


def operands(whole: Shape) -> list[tuple[Shape, Shape]]:
    """Every pair of shapes whose result is ``whole``."""
    choices = [[(n, n), (1, n), (n, 1)] if n > 1 else [(1, 1)] for n in whole]
    found = []
    for (h, i), (w, j), (c, k) in product(*choices):
        found.append(((h, w, c), (i, j, k)))
    return found


def graph(whole: Shape, seed: int, kinds: tuple[str, ...] = OPERATORS) -> Graph:
    """Every pair of operands, each with the next operator of ``kinds``.

    Operands of 8 bits are results of 1x1 convolutions, some second ones are constants; 1x1 convolutions read
    the results of 8 bits. Results are outputs as well.
    """
    b = Builder(seed)
    outputs = []
    for number, shapes in enumerate(operands(whole)):
        kind = kinds[(number + seed) % len(kinds)]
        wide = _WIDE.get(kind, (False, False))
        pair = [_operand(b, *s) for s in zip(shapes, wide, strict=True)]
        if not wide[1] and number % 3 == 0:
            pair[1] = _constant(b, shapes[1])
        out = _both(b, kind, whole, *pair)
        outputs.append(out)
        if b.tensors[out].dtype == "int8":
            outputs.append(b.conv(out, 5))
    return b.finish(*outputs)


def _operand(b: Builder, shape: Shape, wide: bool) -> str:
    if wide:
        return b.input(*shape, dtype="int16")
    return b.conv(b.input(*shape[:2], 3), shape[2], zero_point=b.zero_points(1, False))


def _constant(b: Builder, shape: Shape) -> str:
    out = f"constant{len(b.nodes)}_out"
    b.tensors[out] = Tensor(out, shape, "int8", Quant((0.05,), (-3,)))
    b.nodes.append(
        q.QConstant(f"constant{len(b.nodes)}", (), (out,), b.rng.integers(-128, 128, shape, np.int8))
    )
    return out


def _both(b: Builder, kind: str, shape: Shape, x: str, y: str) -> str:
    assert broadcast(b.tensors[x].shape, b.tensors[y].shape) == shape
    if kind in ("add", "add_wide"):
        out = b.add(x, y, bias=-77, low=-120)
    elif kind == "add32":
        out = b.add32(x, y, high=100)
    elif kind.startswith("gate"):
        out = b.gate(x, y)
    elif kind == "add16":
        out = f"wide{len(b.nodes)}_out"
        b.tensors[out] = Tensor(out, shape, "int16", Quant((0.05,)))
        b.nodes.append(q.QAdd16(f"wide{len(b.nodes)}", (x, y), (out,), (30000, 12345)))
    else:
        out = b.multiply(x, y, shift=0 if kind == "multiply_twice" else 3, low=-100)
    _adjust(b, kind, shape, out)
    return out


def _adjust(b: Builder, kind: str, shape: Shape, out: str) -> None:
    """The result's true shape, and what the builder's own methods do not set."""
    node: Node = b.nodes[-1]
    b.tensors[out] = dataclasses.replace(b.tensors[out], shape=shape)
    if kind == "gate16":
        b.tensors[out] = Tensor(out, shape, "int16", Quant((0.05,)))
        assert isinstance(node, q.QGate)
        node = dataclasses.replace(node, offset=0)
    if isinstance(node, q.QGate):
        factor = b.rng.integers(12000, 32767, shape[2]).astype(np.int16)
        node = dataclasses.replace(node, factor=factor, zero_point=np.asarray([3], np.int16))
    if isinstance(node, q.QAdd32):  # the second operand subtracted
        node = dataclasses.replace(node, multipliers=(node.multipliers[0], -node.multipliers[1]))
    if kind == "multiply_twice":
        assert isinstance(node, q.QMultiply)
        node = dataclasses.replace(node, multiplier=node.multiplier << 4, right=4)
    b.nodes[-1] = node
