"""Sums and products that broadcast, of dense maps in vectors of 8 channels, for every path of 64-bit Arm."""

from __future__ import annotations

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Shape
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.shares import split_rows

Broadcasting = q.QAdd | q.QAdd32 | q.QMultiply | q.QGate
_KINDS: dict[type[Node], str] = {q.QAdd: "add", q.QAdd32: "add32", q.QMultiply: "multiply", q.QGate: "gate"}
_TITLES = {"add": "sum", "add32": "exact sum", "multiply": "exact product", "gate": "gate"}
_VECTOR = 8


def can_broadcast(graph: Graph, node: Node) -> bool:
    """Whether ``broadcast_stage`` can be made: 8-bit operands (a gate has 16), whole vectors of channels."""
    if type(node) not in _KINDS:
        return False
    types = tuple(graph.tensor(name).dtype for name in (*node.inputs, node.output))
    wanted = ("int8", "int16" if isinstance(node, q.QGate) else "int8", "int8")
    return types == wanted and graph.tensor(node.output).shape[2] % _VECTOR == 0


def broadcast_stage(
    graph: Graph, node: Node, regions: tuple[str, str, str], qualifier: str, suffix: str
) -> Stage:
    """The stage of a node for which ``can_broadcast`` holds; all dense.

    Args:
        regions: of both operands and the result.
        qualifier, suffix: of the kernel's function, and of its name.
    """
    kind, label = _KINDS[type(node)], identifier(node.name)
    operands = [graph.tensor(name) for name in node.inputs]
    a, b = (t.shape for t in operands)
    whole = graph.tensor(node.output).shape
    _, width, channels = whole
    one = [shape[2] == 1 for shape in (a, b)]
    twice = isinstance(node, q.QMultiply) and node.right != 0
    shift = node.shift if isinstance(node, q.QGate) else 0
    name = f"broadcast_{kind}{'_twice' * twice}{f'_shift{shift}' if kind == 'gate' else ''}"
    name += f"{'_one_first' * one[0]}{'_one_second' * one[1]}_{suffix}"
    kernel = render(
        "kernels/arm64/broadcast.c.j2",
        name=name,
        qualifier=qualifier,
        title=_TITLES[kind],
        kind=kind,
        one_a=one[0],
        one_b=one[1],
        twice=twice,
        shift=shift,
    )
    arrays: dict[str, tuple[np.ndarray, str]] = {
        "numbers": (np.asarray(_numbers(node), np.int32), "table"),
        "steps": (np.asarray([_step(s, 1) for s in (a, b)], np.int32), "table"),
    }
    if isinstance(node, q.QGate):
        zeros = np.broadcast_to(node.zero_point, (channels,)).astype(np.int16) << shift
        factor = np.broadcast_to(node.factor, (channels,)).astype(np.int16)
        arrays |= {"factor": (factor, "multiplier"), "zeros": (zeros, "table")}
    shares = split_rows(whole)
    types = ("int8_t", "int16_t" if kind == "gate" else "int8_t")
    reads = [
        f"(const {t} *)(const void *)R_{region}{f' + row * {step}' if (step := _step(shape, 0)) else ''}"
        for t, region, shape in zip(types, regions, (a, b), strict=False)
    ]
    tables = f" factor_{label}, zeros_{label}," if kind == "gate" else ""
    body = (
        f"for (int32_t row = {shares.begin}; row < {shares.end}; ++row) {{\n"
        f"{name}({reads[0]}, {reads[1]}, (int8_t *)R_{regions[2]} + row * {width * channels},{tables}"
        f" numbers_{label}, {channels}, {width}, steps_{label});\n}}"
    )
    return Stage(
        name=label,
        title=f"{_TITLES[kind]} of {' and '.join(map(shape_text, operands))}",
        nodes=(node.name,),
        reads=tuple(dict.fromkeys(regions[:2])),
        writes=(regions[2],),
        body=body,
        in_place=((regions[0], regions[2]),) if a == whole and regions[0] != regions[1] else (),
        kernels=(Kernel(name, kernel),),
        constants=tuple(Constant(f"{key}_{label}", data, role) for key, (data, role) in arrays.items()),
        parts=shares.parts,
    )


def _step(shape: Shape, axis: int) -> int:
    """Elements from a place along ``axis`` to the next; none where the operand is repeated."""
    return 0 if shape[axis] == 1 else int(np.prod(shape[axis + 1 :]))


def _numbers(node: Node) -> tuple[int, ...]:
    """Offset, least and greatest value, then the kernel's own."""
    if isinstance(node, q.QAdd):
        return 0, node.low, node.high, *node.multipliers, node.bias, node.fraction
    assert isinstance(node, q.QAdd32 | q.QMultiply | q.QGate)
    bounds = (node.offset, node.low, node.high)
    if isinstance(node, q.QAdd32):
        return *bounds, *node.multipliers, node.bias, node.shift
    if isinstance(node, q.QMultiply):
        return *bounds, *node.zero_points, node.multiplier, node.shift, node.right
    return bounds
