"""Operators that work value by value: exact sums and products, tables, the library's door."""

from __future__ import annotations

from dataclasses import dataclass

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import repeats
from mnv3c.ir.graph import Node
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.doors import quantize_kernel, quantize_tables
from mnv3c.paths.common.shares import LEAST_ELEMENTS
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.shares import Shares, cut


@dataclass(frozen=True, eq=False)
class Door:
    """``Quantize`` or ``FlipSign`` as code that others may run row by row."""

    kernel: Kernel
    constants: tuple[Constant, ...]
    element: str
    to: str
    arguments: tuple[str, ...]

    def call(self, x: str, at: str, to: str, count: str) -> str:
        """C for ``count`` values from ``x + at`` on; a row, or more, starts there."""
        source = f"(const {self.element} *){x}{f' + {at}' if at else ''}"
        return f"{self.kernel.name}({', '.join([source, f'({self.to} *)({to})', count, *self.arguments])});"


def door_of(context: Context, node: Node | None) -> Door | None:
    """How ``node`` is computed, if it stands at the library's door."""
    if isinstance(node, q.FlipSign):
        kernel = Kernel("flip_sign_neon", render("kernels/neon/flip_sign.c.j2"))
        return Door(kernel, (), "uint8_t", "uint8_t", ())
    if not isinstance(node, q.Quantize):
        return None
    scale, zero = quantize_tables(node, context.tensor(node.output).shape[2])
    return Door(
        quantize_kernel("KERNEL_NEON", "neon"),
        (scale, zero),
        "float",
        "int8_t",
        (scale.name, zero.name, str(scale.data.size)),
    )


def lower_elementwise(context: Context, node: Node) -> Stage | None:
    """One stage for ``node``, or ``None`` where it is not such an operator or has an odd shape."""
    if isinstance(node, q.QMultiply):
        return _multiply(context, node)
    if isinstance(node, q.QAdd32):
        return _add(context, node)
    if isinstance(node, q.QLut):
        return _look_up(context, node)
    door = door_of(context, node)
    return _door(context, node, door) if door is not None else None


def _stage(
    context: Context,
    node: Node,
    title: str,
    body: str,
    kernel: Kernel,
    shares: Shares,
    constants: tuple[Constant, ...] = (),
    in_place: bool = True,
) -> Stage:
    x, y = context.regions[node.inputs[0]], context.regions[node.outputs[0]]
    return Stage(
        name=identifier(node.name),
        title=f"{title}, {shape_text(context.tensor(node.outputs[0]))}",
        nodes=(node.name,),
        reads=tuple(dict.fromkeys(context.regions[i] for i in node.inputs)),
        writes=(y,),
        body=body + "\n",
        in_place=((x, y),) if in_place else (),
        kernels=(kernel,),
        constants=constants,
        parts=shares.parts,
    )


def _cut(elements: int, units: int) -> Shares:
    return cut(units) if elements >= LEAST_ELEMENTS else Shares(units, 1)


def _multiply(context: Context, node: q.QMultiply) -> Stage | None:
    t, y = context.tensor(node.inputs[0]), context.tensor(node.inputs[1])
    height, width, channels = t.shape
    if channels % BLOCK or y.shape not in (t.shape, (1, 1, channels)):
        return None
    whole = y.shape == t.shape and (height, width) != (1, 1)
    shares = _cut(t.elements, height)
    name = f"multiply_neon{'_twice' if node.right else ''}"
    kernel = Kernel(name, render("kernels/neon/multiply.c.j2", name=name, right=bool(node.right)))
    row = width * channels
    at = f" + first * {row}"
    count = f"({shares.end} - first)"
    arguments = [
        context.pointer(node.inputs[0]) + at,
        context.pointer(node.inputs[1]) + (at if whole else ""),
        context.pointer(node.output, const=False) + at,
        "1" if whole else f"{count} * {width}",
        f"{count} * {row}" if whole else str(channels),
        *(str(n) for n in (*node.zero_points, node.multiplier, node.shift, node.right)),
        *(str(n) for n in (node.offset, node.low, node.high)),
    ]
    body = f"const int32_t first = {shares.begin};\n{name}({', '.join(arguments)});"
    return _stage(context, node, "exact product", body, kernel, shares)


def _add(context: Context, node: q.QAdd32) -> Stage | None:
    elements = context.tensor(node.output).elements
    if elements % BLOCK or repeats(context.graph, node):
        return None
    shares = _cut(elements, elements // BLOCK)
    arguments = [
        *(f"{context.pointer(i)} + first" for i in node.inputs),
        f"{context.pointer(node.output, const=False)} + first",
        f"{BLOCK} * ({shares.end}) - first",
        *(str(n) for n in (*node.multipliers, node.bias, node.shift, node.offset, node.low, node.high)),
    ]
    body = f"const int32_t first = {BLOCK} * ({shares.begin});\nadd32_neon({', '.join(arguments)});"
    kernel = Kernel("add32_neon", render("kernels/neon/add32.c.j2"))
    return _stage(context, node, "exact add", body, kernel, shares)


def _look_up(context: Context, node: q.QLut) -> Stage:
    elements = context.tensor(node.output).elements
    shares = _cut(elements, elements)
    table = Constant(f"table_{identifier(node.name)}", node.table, "table")
    x, y = context.pointer(node.inputs[0]), context.pointer(node.output, const=False)
    lines = [
        f"const int32_t first = {shares.begin};",
        f"const int32_t count = {shares.end} - first;",
        f"if ({x} != {y}) {{",
        f"  memcpy({y} + first, {x} + first, (uint32_t)count);",
        "}",
        f"look_up_neon({y} + first, {table.name}, count, 0, 1);",
    ]
    return _stage(
        context, node, "table look-up", "\n".join(lines), context.dialect.look_up(), shares, (table,)
    )


def _door(context: Context, node: Node, door: Door) -> Stage:
    t = context.tensor(node.outputs[0])
    row = t.shape[1] * t.shape[2]
    shares = _cut(t.elements, t.shape[0])
    x, y = (f"R_{context.regions[n]}" for n in (node.inputs[0], node.outputs[0]))
    count = f"({shares.end} - first) * {row}"
    call = door.call(x, f"first * {row}", f"{y} + first * {row}", count)
    body = f"const int32_t first = {shares.begin};\n{call}"
    title = "quantise" if isinstance(node, q.Quantize) else "change the sign bit"
    return _stage(context, node, title, body, door.kernel, shares, door.constants, in_place=False)
