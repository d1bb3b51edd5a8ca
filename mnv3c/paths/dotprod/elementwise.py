"""Operators of models that come quantised, value by value over tiles: tables, exact sums and products."""

from __future__ import annotations

import numpy as np

from mnv3c.codegen.program import Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import repeats
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.broadcasts import broadcast_stage, can_broadcast
from mnv3c.paths.common.doors import quantize_stage
from mnv3c.paths.common.enlarge import Source
from mnv3c.paths.dotprod.builder import DENSE, Builder, Form, constants, template_kernel
from mnv3c.paths.dotprod.layout import ROW, TILE, best_block, grid, quads, tiled_bytes

# Left shift up to which a factor, 9 bits, still fits 16.
_FACTOR_SHIFT = 7


def separate_tables(graph: Graph) -> Graph:
    """Convolutions without their table: it is applied to tiles in memory, as it needs 16 registers.

    Before::

        y: int8, s: int32 = FusedConv(x){QConv, QLut, ChannelSum}

    After::

        t: int8 = QConv(x)
        y: int8 = QLut(t)
        s: int32 = ChannelSum(y)
    """
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if isinstance(node, q.FusedConv) and isinstance(node.activation, q.QLut):
            result = graph.tensor(node.outputs[0])
            tensors[node.conv.output] = Tensor(node.conv.output, result.shape, "int8", result.quant)
            nodes += node.parts
        else:
            nodes.append(node)
    return graph.replace(nodes=tuple(nodes), tensors=tensors)


def lower_elementwise(builder: Builder, node: Node) -> bool:
    """A table, sum, product or channel sum of tensors that other stages compute; False if it is not one."""
    if isinstance(node, q.QLut):
        return _lower_table(builder, node)
    if isinstance(node, q.QAdd32):
        return _lower_add(builder, node)
    if isinstance(node, q.QMultiply):
        return _lower_multiply(builder, node)
    if isinstance(node, q.Quantize):
        return _lower_quantize(builder, node)
    return isinstance(node, q.ChannelSum) and lower_sum(builder, node)


def _form(builder: Builder, node: Node) -> Form:
    """In which form all operands and the result are: that in which they are wanted, if they have it."""
    y = builder.graph.tensor(node.output)
    if y.shape[:2] == (1, 1):
        return DENSE
    # An image at the door: tiles would be a quarter empty, and the first convolution does not want them.
    thin = y.shape[2] < 4 and y.bytes % TILE == 0 and not _outside(builder, node, DENSE)
    if thin and all(builder.has(x, DENSE) for x in node.inputs):
        return DENSE
    block = best_block(y.shape)
    wanted = builder.result_form(y, block)
    return wanted if all(builder.has(x, wanted) for x in node.inputs) else block


def _vectors(tensor: Tensor, form: Form) -> int:
    """Vectors of 16 bytes in a region."""
    if form is DENSE:
        return -(-tensor.bytes // TILE)
    return tiled_bytes(tensor.shape, best_block(tensor.shape)) // TILE


def _outside(builder: Builder, node: Node, form: Form) -> bool:
    """Whether whole vectors would leave a buffer of the caller's."""
    graph = builder.graph
    outer = (*graph.inputs, *graph.outputs)
    return form is DENSE and any(t in outer for t in (*node.inputs, *node.outputs))


def _lower_quantize(builder: Builder, node: q.Quantize) -> bool:
    read, write = builder.need(node.inputs[0], DENSE), builder.provide(node.output, DENSE)
    source = Source("pixels", read, write, "static MNV3C_NOINLINE", "dotprod")
    builder.add(quantize_stage(node, builder.graph.tensor(node.output), source))
    return True


def _lower_table(builder: Builder, node: q.QLut) -> bool:
    form = _form(builder, node)
    y = builder.graph.tensor(node.output)
    if _outside(builder, node, form) or builder.graph.tensor(node.inputs[0]).dtype != "int8":
        return False
    label = identifier(node.name)
    read, write = builder.need(node.inputs[0], form), builder.provide(y.name, form)
    vectors = _vectors(y, form)
    unroll = next(n for n in (4, 2, 1) if vectors % n == 0)
    name = f"look_up_{unroll}_dotprod"
    _add_stage(
        builder,
        node,
        f"table, {shape_text(y)}",
        (read,),
        write,
        f"{name}((const int8_t *)R_{read}, (int8_t *)R_{write}, table_{label}, {vectors // unroll});",
        kernels=(Kernel(name, render("kernels/dotprod/look_up.c.j2", name=name, unroll=unroll)),),
        arrays={"table": (node.table, "table")},
    )
    return True


def _lower_add(builder: Builder, node: q.QAdd32) -> bool:
    if repeats(builder.graph, node):
        return False
    form = _form(builder, node)
    y = builder.graph.tensor(node.output)
    if _outside(builder, node, form):
        return False
    a, b = (builder.need(x, form) for x in node.inputs)
    write = builder.provide(y.name, form)
    numbers = (*node.multipliers, node.bias, -node.shift, node.offset, node.low, node.high)
    _add_stage(
        builder,
        node,
        f"exact sum, {shape_text(y)}",
        tuple(dict.fromkeys((a, b))),
        write,
        f"add_dotprod((const int8_t *)R_{a}, (const int8_t *)R_{b}, (int8_t *)R_{write}, numbers_"
        f"{identifier(node.name)}, {_vectors(y, form)});",
        kernels=(template_kernel("add"),),
        arrays={"numbers": (np.asarray(numbers, np.int32), "table")},
    )
    return True


def _lower_multiply(builder: Builder, node: q.QMultiply) -> bool:
    """The product with a vector, such as an SE gate in 8 bits, or with a tensor of the same shape."""
    graph = builder.graph
    x, gate, y = (graph.tensor(t) for t in (*node.inputs, node.output))
    if gate.shape == x.shape:
        return _multiply_maps(builder, node)
    if x.shape[:2] == (1, 1) or gate.shape != (1, 1, x.shape[2]) or node.shift > _FACTOR_SHIFT:
        return False
    if gate.name in graph.inputs:
        return False
    block = best_block(x.shape)
    count = quads(x.shape[2])
    rows, columns = grid(x.shape, block)
    read, factors, write = (
        builder.need(x.name, block),
        builder.need(gate.name, DENSE),
        builder.provide(y.name, block),
    )
    label = identifier(node.name)
    terms = builder.scratch(f"{label}_terms", count * TILE)
    clamp = node.low > -128 or node.high < 127
    unroll = next(n for n in (4, 3, 2, 1) if count % n == 0)
    saturate, offset = _greatest_product(node) > 2**15 - 1, node.offset != 0
    twice = node.right != 0
    forms = f"{'_twice' * twice}{'_saturate' * saturate}{'_offset' * offset}{'_clamp' * clamp}"
    name = f"multiply_{unroll}{forms}_dotprod"
    source = render(
        "kernels/dotprod/multiply.c.j2",
        name=name,
        clamp=clamp,
        offset=offset,
        saturate=saturate,
        twice=twice,
        unroll=unroll,
    )
    numbers = (*node.zero_points, node.multiplier, node.shift, node.offset, node.low, node.high, node.right)
    _add_stage(
        builder,
        node,
        f"exact product, {shape_text(y)}",
        (read, factors),
        write,
        f"{name}((const int8_t *)R_{read}, (const int8_t *)R_{factors}, (int8_t *)R_{write},"
        f" (int16_t *)(void *)R_{terms.name}, numbers_{label}, {rows * columns}, {count});",
        kernels=(Kernel(name, source),),
        arrays={"numbers": (np.asarray(numbers, np.int32), "table")},
        scratch=(terms,),
    )
    return True


def _greatest_product(node: q.QMultiply) -> int:
    """What a product is at most after its multiplication with the multiplier, whatever its sign."""
    x, gate = (max(127 - z, z + 128) for z in node.zero_points)
    return (((x * gate << node.shift) * node.multiplier >> 31) + 1 >> node.right) + 1


def _multiply_maps(builder: Builder, node: q.QMultiply) -> bool:
    """The product of two tensors of one shape, value by value."""
    form = _form(builder, node)
    y = builder.graph.tensor(node.output)
    if _outside(builder, node, form) or node.shift > _FACTOR_SHIFT:
        return False
    a, b = (builder.need(x, form) for x in node.inputs)
    write = builder.provide(y.name, form)
    numbers = (*node.zero_points, node.multiplier, node.shift, node.offset, node.low, node.high, node.right)
    label, twice = identifier(node.name), node.right != 0
    name = f"multiply_maps{'_twice' * twice}_dotprod"
    _add_stage(
        builder,
        node,
        f"exact product, {shape_text(y)}",
        tuple(dict.fromkeys((a, b))),
        write,
        f"{name}((const int8_t *)R_{a}, (const int8_t *)R_{b}, (int8_t *)R_{write},"
        f" numbers_{label}, {_vectors(y, form)});",
        kernels=(Kernel(name, render("kernels/dotprod/multiply_maps.c.j2", name=name, twice=twice)),),
        arrays={"numbers": (np.asarray(numbers, np.int32), "table")},
    )
    return True


def lower_broadcast(builder: Builder, node: Node) -> bool:
    """A sum or product that broadcasts: dense."""
    graph = builder.graph
    if not can_broadcast(graph, node):
        return False
    a, b = (builder.need(name, DENSE) for name in node.inputs)
    regions = (a, b, builder.provide(node.output, DENSE))
    builder.add(broadcast_stage(graph, node, regions, "static MNV3C_NOINLINE", "dotprod"))
    return True


def lower_sum(builder: Builder, node: q.ChannelSum) -> bool:
    """Sums over a map that is there in tiles; False if it is not, or has tiles with parts of no map."""
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.output)
    if x.dtype != "int8" or x.shape[:2] == (1, 1) or y.name in builder.graph.outputs:
        return False
    if not builder.tiled(x.name):
        return False
    blocks = (best_block(x.shape), ROW)
    whole = [b for b in blocks if b == ROW or (x.shape[0] % b[0], x.shape[1] % b[1]) == (0, 0)]
    block = next((b for b in whole if builder.has(x.name, b)), whole[0])
    rows, columns = grid(x.shape, block)
    edge = x.shape[1] % block[1]
    if not edge:
        rows, columns = 1, rows * columns
    read, write = builder.need(x.name, block), builder.provide(y.name, DENSE)
    _add_stage(
        builder,
        node,
        f"channel sums of {shape_text(x)}",
        (read,),
        write,
        f"channel_sum_dotprod((const int8_t *)R_{read}, (int32_t *)(void *)R_{write}, {quads(x.shape[2])},"
        f" {rows}, {columns}, {edge or 4});",
        kernels=(template_kernel("channel_sum"),),
    )
    return True


def _add_stage(
    builder: Builder,
    node: Node,
    title: str,
    reads: tuple[str, ...],
    write: str,
    body: str,
    kernels: tuple[Kernel, ...],
    arrays: dict[str, tuple[np.ndarray, str]] | None = None,
    scratch: tuple[Region, ...] = (),
) -> None:
    builder.add(
        Stage(
            name=identifier(node.name),
            title=title,
            nodes=(node.name,),
            reads=reads,
            writes=(write,),
            body=body,
            scratch=scratch,
            in_place=((reads[0], write),),
            kernels=kernels,
            constants=constants(identifier(node.name), arrays or {}),
        )
    )
