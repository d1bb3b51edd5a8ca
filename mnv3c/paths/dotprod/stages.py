"""Stages of the operators that are not depthwise: 1x1, dense convolutions, vectors, the SE gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mnv3c.codegen.program import Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants, shape_text, template_kernel, unique
from mnv3c.paths.dotprod.epilogue import layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import ROW, TILE, best_block, grid, quads, tiled_bytes
from mnv3c.paths.dotprod.pointwise import call
from mnv3c.paths.dotprod.vector import vector_kernel

# Bytes of a 1x1 convolution's input that stay in a 32 KiB L1 while the weights stream past.
_CHUNK_BYTES = 21 * 1024
# Blocks of a chunk are a multiple of this: kernels take 2 or 3 at once.
_GROUP = 6
# Columns of blocks up to which rows are worth a kernel of their own.
_NARROW = 3


def is_vector(t: Tensor) -> bool:
    return t.shape[:2] == (1, 1)


def simple_result(builder: Builder, node: q.FusedConv) -> bool:
    """int8 result after nothing, an h-swish or a residual add of an int8 tensor."""
    if builder.graph.tensor(node.outputs[0]).dtype != "int8":
        return False
    if node.residual is not None and builder.graph.tensor(node.inputs[1]).dtype != "int8":
        return False
    return node.activation is None or isinstance(node.activation, q.QHardSwish)


def lower_vector(builder: Builder, node: q.FusedConv) -> bool:
    """A convolution of a vector; False if this kernel cannot do it."""
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.outputs[0])
    conv = node.conv
    if not (is_vector(x) and is_vector(y) and conv.pointwise) or node.residual or node.channel_sum:
        return False
    if isinstance(node.activation, q.QLut) or y.dtype not in ("int8", "int16"):
        return False
    made = vector_kernel(node, y.dtype)
    label = identifier(node.name)
    source = builder.need(x.name, DENSE)
    target = builder.provide(y.name, DENSE)
    arrays = {
        "weights": (made.weights, "weight"),
        "params": (made.params, "multiplier"),
        "common": (made.common, "table"),
    }
    scratch: list[Region] = []
    before = after = ""
    read, write = f"R_{source}", f"R_{target}"
    if x.name in builder.graph.inputs:  # the kernel reads whole groups of 8
        scratch.append(builder.scratch(f"{label}_padded", -(-x.bytes // 16) * 16))
        before = f"memcpy(R_{scratch[-1].name}, {read}, {x.bytes});\n"
        read = f"R_{scratch[-1].name}"
    if y.name in builder.graph.outputs and (y.shape[2] % 4 or y.dtype == "int16"):
        scratch.append(builder.scratch(f"{label}_result", -(-y.bytes // 16) * 16))
        after = f"\nmemcpy({write}, R_{scratch[-1].name}, {y.bytes});"
        write = f"R_{scratch[-1].name}"
    body = call(
        made.kernel.name,
        "vector_call",
        {
            "in": f"(const int8_t *){read}",
            "weights": f"weights_{label}",
            "params": f"params_{label}",
            "common": f"common_{label}",
            "out": write,
            "depth": made.depth,
            "groups": made.groups,
        },
    )
    builder.add(
        Stage(
            name=label,
            title=f"fully connected, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=before + body + after,
            scratch=tuple(scratch),
            kernels=(made.kernel,),
            constants=constants(label, arrays),
        )
    )
    return True


def lower_pointwise(builder: Builder, node: q.FusedConv) -> bool:
    """A 1x1 convolution of a map, residual add included; False if this kernel cannot do it."""
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.outputs[0])
    conv = node.conv
    if not conv.pointwise or not simple_result(builder, node):
        return False
    if node.channel_sum is not None:
        if _lower_pooled(builder, node):
            return True
        conv_alone = replace(node, outputs=node.outputs[:1], channel_sum=None)
        if not lower_pointwise(builder, conv_alone):
            return False
        builder.fall_back(node.channel_sum)
        return True
    block = best_block(x.shape)
    label = identifier(node.name)
    e = plan_epilogue(node)
    rows, columns = grid(x.shape, block)
    in_quads, out_quads = quads(x.shape[2]), quads(y.shape[2])
    source = builder.need(x.name, builder.matrix_form(x, block))
    form = builder.result_form(y, block)
    plain = ["out"] if form == block else []
    operand = None
    if node.residual is not None:
        operand_form = builder.residual_form(node.inputs[1], block, form)
        operand = builder.need(node.inputs[1], operand_form)
        plain += ["residual"] if operand_form == block else []
    reads = [source] if operand in (None, source) else [source, str(operand)]
    target = builder.provide(y.name, form)
    # Narrow maps row by row, so that pixels behind the edge cost nothing; others as one row of blocks.
    edge = x.shape[1] % 4 if block == ROW and columns <= _NARROW else 0
    by_row = edge > 1 and builder.instructions.octets is None
    unit = columns if by_row else 1
    size = _chunk(rows * columns // unit, in_quads * unit, 1 if by_row else _GROUP)
    chunks, rest = divmod(rows * columns // unit, size)
    calls = []
    kernels = []
    for count, blocks in ((chunks, size), (1, rest)):
        if not count or not blocks:
            continue
        row = columns if by_row else blocks
        kernel = builder.pointwise(in_quads, out_quads, row, "channel", e, edge if by_row else 0, plain=plain)
        kernels.append(kernel)
        first = f"(ptrdiff_t)chunk * {size}" if count > 1 else str(chunks * size if blocks == rest else 0)
        fields: dict[str, object] = {
            "in": f"(const int8_t *)R_{source} + {first} * {unit * in_quads * TILE}",
            "in_block": in_quads * TILE,
            "in_row": row * in_quads * TILE,
            "weights": f"weights_{label}",
            "params": f"params_{label}",
            "common": f"common_{label}",
            "out": f"(int8_t *)R_{target} + {first} * {unit * out_quads * TILE}",
            "out_block": out_quads * TILE,
            "out_row": row * out_quads * TILE,
            "out_quad": TILE,
            "depth": kernel.depth,
            "groups": out_quads // kernel.quads,
            "rows": blocks if by_row else 1,
            "steps": kernel.steps,
        }
        if operand is not None:
            fields["residual"] = f"(const int8_t *)R_{operand} + {first} * {unit * out_quads * TILE}"
        text = call(kernel.kernel.name, "pointwise_call", fields)
        if count > 1:
            inner = text.replace("\n", "\n  ")
            text = f"for (int32_t chunk = 0; chunk < {count}; ++chunk) {{\n  {inner}\n}}"
        calls.append(text)
    arrays = {
        "weights": (kernels[0].pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    builder.add(
        Stage(
            name=label,
            title=f"1x1 convolution, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=tuple(reads),
            writes=(target,),
            body="\n".join(calls),
            in_place=((operand, target),) if operand is not None and operand != source else (),
            kernels=unique([k.kernel for k in kernels]),
            constants=constants(label, arrays),
        )
    )
    return True


def _chunk(units: int, in_quads: int, group: int) -> int:
    """Units (blocks, or rows of them) whose input stays in L1 while the weights stream past.

    An even share of all, a multiple of ``group``.
    """
    most = max(_CHUNK_BYTES // (in_quads * TILE) // group * group, group)
    if units <= most:
        return units
    share = -(-units // -(-units // most))
    return -(-share // group) * group


def _lower_pooled(builder: Builder, node: q.FusedConv) -> bool:
    """A 1x1 convolution of which only the channel sums are wanted: its result is never stored."""
    graph = builder.graph
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    unused = not graph.consumers(y.name) and y.name not in graph.outputs
    if not unused or node.outputs[1] in graph.outputs or node.residual is not None:
        return False
    block = best_block(x.shape)
    label = identifier(node.name)
    e = plan_epilogue(node, store=False, want_sum=True)
    rows, columns = grid(x.shape, block)
    edge_pixels = x.shape[1] % 4 if block == ROW else 0
    if not edge_pixels:
        rows, columns = 1, rows * columns
    kernel = builder.pointwise(quads(x.shape[2]), quads(y.shape[2]), columns, "pixel", e, edge_pixels)
    source = builder.need(x.name, builder.matrix_form(x, block))
    target = builder.provide(node.outputs[1], DENSE)
    fields: dict[str, object] = {
        "in": f"(const int8_t *)R_{source}",
        "in_block": quads(x.shape[2]) * TILE,
        "in_row": columns * quads(x.shape[2]) * TILE,
        "weights": f"weights_{label}",
        "params": f"params_{label}",
        "common": f"common_{label}",
        "sums": f"(int32_t *)(void *)R_{target}",
        "depth": kernel.depth,
        "groups": quads(y.shape[2]) // kernel.quads,
        "rows": rows,
        "steps": kernel.steps,
    }
    arrays = {
        "weights": (kernel.pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    builder.add(
        Stage(
            name=label,
            title=f"1x1 convolution and pool, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=f"memset(R_{target}, 0, {quads(y.shape[2]) * 16});\n"
            + call(kernel.kernel.name, "pointwise_call", fields),
            kernels=(kernel.kernel,),
            constants=constants(label, arrays),
        )
    )
    return True


def conv_matrix(node: q.FusedConv) -> np.ndarray:
    """The weights as int8 ``[out, kernel_h * kernel_w * in]``."""
    return node.conv.weight.reshape(node.conv.weight.shape[0], -1)


def lower_dense(builder: Builder, node: q.FusedConv) -> bool:
    """Any convolution of one group: windows are gathered into tiles, then multiplied as a 1x1."""
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.outputs[0])
    conv = node.conv
    if conv.groups != 1 or not simple_result(builder, node) or node.residual or node.channel_sum:
        return False
    label = identifier(node.name)
    e = plan_epilogue(node)
    rows, columns = grid(y.shape, ROW)
    depth = conv.kernel[0] * conv.kernel[1] * x.shape[2]
    kernel = builder.pointwise(quads(depth), quads(y.shape[2]), columns, "channel", e, plain=("in", "out"))
    source = builder.need(x.name, DENSE)
    target = builder.provide(y.name, ROW)
    zero_point = np.broadcast_to(np.asarray(x.quant.zero_point if x.quant else (0,), np.int8), x.shape[2:])
    arrays = {
        "weights": (kernel.pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
        "padding": (zero_point.copy(), "table"),
    }
    gather = template_kernel("gather")
    windows = builder.scratch(f"{label}_windows", (columns * quads(depth) + 1) * TILE)
    gather_call = call(
        gather.name,
        "gather_call",
        {
            "in": f"(const int8_t *)R_{source}",
            "out": f"(int8_t *)R_{windows.name}",
            "padding": f"padding_{label}",
            "row": "row",
            "height": x.shape[0],
            "width": x.shape[1],
            "channels": x.shape[2],
            "columns": columns,
            "kernel_h": conv.kernel[0],
            "kernel_w": conv.kernel[1],
            "stride_h": conv.stride[0],
            "stride_w": conv.stride[1],
            "dilation_h": conv.dilation[0],
            "dilation_w": conv.dilation[1],
            "pad_top": conv.pad[0],
            "pad_left": conv.pad[1],
        },
    )
    multiply = call(
        kernel.kernel.name,
        "pointwise_call",
        {
            "in": f"(const int8_t *)R_{windows.name}",
            "in_block": quads(depth) * TILE,
            "weights": f"weights_{label}",
            "params": f"params_{label}",
            "common": f"common_{label}",
            "out": f"(int8_t *)R_{target} + (ptrdiff_t)row * {columns * quads(y.shape[2]) * TILE}",
            "out_block": quads(y.shape[2]) * TILE,
            "out_quad": TILE,
            "depth": kernel.depth,
            "groups": quads(y.shape[2]) // kernel.quads,
            "rows": 1,
            "steps": kernel.steps,
        },
    )
    loop = "\n".join(f"  {line}" for line in f"{gather_call}\n{multiply}".split("\n"))
    body = f"memset(R_{windows.name}, 0, {windows.bytes});\n"
    body += f"for (int32_t row = 0; row < {rows}; ++row) {{\n{loop}\n}}"
    builder.add(
        Stage(
            name=label,
            title=f"convolution {conv.kernel[0]}x{conv.kernel[1]}, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=body,
            scratch=(windows,),
            kernels=(gather, kernel.kernel),
            constants=constants(label, arrays),
        )
    )
    return True


def lower_gate(builder: Builder, node: q.QGate) -> bool:
    """The SE gate over tiles, in place."""
    x, gate = (builder.graph.tensor(i) for i in node.inputs)
    y = builder.graph.tensor(node.output)
    if is_vector(x) or not is_vector(gate) or x.dtype != "int8" or y.dtype != "int8":
        return False
    block = best_block(x.shape)
    label = identifier(node.name)
    channels = x.shape[2]
    rows, columns = grid(x.shape, block)
    zeros = np.zeros(quads(channels) * 4, np.int16)
    zeros[:channels] = node.zero_point.astype(np.int16) << node.shift
    factors = np.zeros(quads(channels) * 4, np.int16)
    factors[:channels] = node.factor
    unroll = next(u for u in (4, 2, 1) if quads(channels) % u == 0)
    clamp = node.low > -128 or node.high < 127
    form = builder.result_form(y, block)
    variant = ("_offset" if node.offset else "") + ("_clamp" if clamp else "")
    variant += "_octets" if form != block else ""
    name = f"gate_{unroll}_shift{node.shift}{variant}_dotprod"
    source = render(
        "kernels/dotprod/gate.c.j2",
        name=name,
        shift=node.shift,
        unroll=unroll,
        offset=node.offset != 0,
        clamp=clamp,
        octets=form != block,
    )
    read, gate_region = builder.need(x.name, block), builder.need(gate.name, DENSE)
    write = builder.provide(y.name, form)
    spread = builder.scratch(f"{label}_terms", quads(channels) * 32)
    body = (
        f"gate_factors_dotprod((const int16_t *)(const void *)R_{gate_region}, factor_{label},"
        f" zeros_{label}, (int16_t *)(void *)R_{spread.name}, {quads(channels)});\n"
        f"{name}((const int8_t *)R_{read}, (int8_t *)R_{write},"
        f" (const int16_t *)(const void *)R_{spread.name},"
        f" {node.offset}, {node.low}, {node.high}, {rows * columns}, {quads(channels)});"
    )
    builder.add(
        Stage(
            name=label,
            title=f"SE gate, {shape_text(y)}",
            nodes=(node.name,),
            reads=(read, gate_region),
            writes=(write,),
            body=body,
            scratch=(spread,),
            in_place=((read, write),),
            kernels=(template_kernel("gate_factors"), Kernel(name, source)),
            constants=constants(label, {"factor": (factors, "multiplier"), "zeros": (zeros, "table")}),
        )
    )
    return True


__all__ = ["lower_dense", "lower_gate", "lower_pointwise", "lower_vector", "simple_result", "tiled_bytes"]
