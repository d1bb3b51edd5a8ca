"""Stages of the operators that are not depthwise: 1x1, dense convolutions, vectors, the SE gate."""

from __future__ import annotations

import numpy as np

from mnv3c.codegen.program import Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.shares import Split, for_shares, own, split
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants, template_kernel, unique
from mnv3c.paths.dotprod.chunks import MULTIPLE, Walk, chunks_of
from mnv3c.paths.dotprod.epilogue import layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import ROW, TILE, block_name, grid, quads, tiled_bytes
from mnv3c.paths.dotprod.loads import loads_of
from mnv3c.paths.dotprod.pointwise import PointwiseKernel, call
from mnv3c.paths.dotprod.vector import vector_kernel
from mnv3c.schedules import table_of

# From this many weights on, a vector's product is worth waiting for other workers.
_VECTOR_FROM = 48 * 1024


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
    made = vector_kernel(node, y.dtype, builder.knobs(node.name))
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
    # An input that is copied first is copied by one.
    most = builder.workers(node.name)
    parts = split(made.groups, most).parts if made.weights.size >= _VECTOR_FROM and not before else 1
    fields: dict[str, object] = {
        "in": f"(const int8_t *){read}",
        "weights": f"weights_{label}",
        "params": f"params_{label}",
        "common": f"common_{label}",
        "out": write,
        "depth": made.depth,
        "groups": made.groups,
    }
    if parts > 1:
        shares = Split(made.groups, parts)
        group_bytes = -(-y.shape[2] // 4) // made.groups * 4 * (y.bytes // y.elements)
        before = f"const int32_t first = {shares.begin};\nconst int32_t behind = {shares.end};\n"
        if after:
            size = f"({made.groups} == behind ? {y.bytes} : behind * {group_bytes}) - first * {group_bytes}"
            at = f"first * {group_bytes}"
            after = f"\nmemcpy(R_{target} + {at}, {write} + {at}, (size_t)({size}));"
        fields |= {
            "weights": f"weights_{label} + (ptrdiff_t)first * {made.weights.size // made.groups}",
            "params": f"params_{label} + first * {made.params.size // made.groups}",
            "out": f"{write} + first * {group_bytes}",
            "groups": "behind - first",
        }
    body = call(made.kernel.name, "vector_call", fields)
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
            parts=parts,
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
        return _lower_pooled(builder, node)
    block = builder.block(node.name, "block", x.shape)
    label = identifier(node.name)
    e = plan_epilogue(node)
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
    walk = Walk.over(x.shape, block, builder.instructions.octets is not None)
    unit, units = walk.unit, walk.units

    def kernel_for(units: int, note: bool = True) -> PointwiseKernel:
        row, knob = walk.row(units), builder.knobs(node.name, note)
        return builder.pointwise(in_quads, out_quads, row, "channel", e, walk.edge, plain=plain, knob=knob)

    model = kernel_for(MULTIPLE)
    groups = out_quads // model.quads
    group_bytes = model.quads * model.quad_bytes
    rules, workers = table_of("pointwise"), builder.workers(node.name)
    chunks = rules.default_chunks(walk, walk.multiple(model.steps), groups, group_bytes, workers)
    size = min(builder.knob(node.name, "chunk", chunks.size), units)
    if size != chunks.size:
        chunks = chunks_of(units, size, groups, workers)
    calls = []
    kernels = []
    for count, blocks in ((chunks.count, size), (1, chunks.rest)):
        if not count or not blocks:
            continue
        row = walk.row(blocks)
        # A shorter last chunk has what its rules say, where nothing is chosen.
        kernel = kernel_for(blocks, note=blocks == size)
        kernels.append(kernel)
        first = "(ptrdiff_t)chunk" if blocks == size else str(chunks.count)
        first = f"{first} * {size}" if chunks.count > 1 or blocks != size else "0"
        fields: dict[str, object] = {
            "in": f"(const int8_t *)R_{source} + {first} * {unit * in_quads * TILE}",
            "in_block": in_quads * TILE,
            "in_row": row * in_quads * TILE,
            "weights": _of_group(f"weights_{label}", kernel.quads * kernel.quad_bytes, chunks.groups),
            "params": _of_group(f"params_{label}", kernel.quads * e.words, chunks.groups),
            "common": f"common_{label}",
            "out": _of_group(
                f"(int8_t *)R_{target} + {first} * {unit * out_quads * TILE}",
                kernel.quads * TILE,
                chunks.groups,
            ),
            "out_block": out_quads * TILE,
            "out_row": row * out_quads * TILE,
            "out_quad": TILE,
            "depth": kernel.depth,
            "groups": "groups" if chunks.groups.parts > 1 else groups,
            "rows": blocks if walk.edge else 1,
            "steps": kernel.steps,
        }
        if operand is not None:
            fields["residual"] = _of_group(
                f"(const int8_t *)R_{operand} + {first} * {unit * out_quads * TILE}",
                kernel.quads * TILE,
                chunks.groups,
            )
        calls.append(call(kernel.kernel.name, "pointwise_call", fields))
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
            body=chunks.loop(calls),
            parts=chunks.parts,
            in_place=((operand, target),) if operand is not None and operand != source else (),
            kernels=unique([k.kernel for k in kernels]),
            constants=constants(label, arrays),
        )
    )
    return True


def _lower_pooled(builder: Builder, node: q.FusedConv) -> bool:
    """A 1x1 convolution of which only the channel sums are wanted: its result is never stored."""
    graph = builder.graph
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    unused = not graph.consumers(y.name) and y.name not in graph.outputs
    if not unused or node.outputs[1] in graph.outputs or node.residual is not None:
        return False
    block = builder.block(node.name, "block", x.shape)
    if x.shape[0] % 2 or x.shape[1] % 2:
        block = ROW  # pixels behind the edge can be left out of the sums in rows alone
        builder.settle(node.name, "block", block_name(block))
    label = identifier(node.name)
    e = plan_epilogue(node, store=False, want_sum=True)
    rows, columns = grid(x.shape, block)
    edge_pixels = x.shape[1] % 4 if block == ROW else 0
    if not edge_pixels:
        rows, columns = 1, rows * columns
    kernel = builder.pointwise(
        quads(x.shape[2]), quads(y.shape[2]), columns, "pixel", e, edge_pixels, knob=builder.knobs(node.name)
    )
    source = builder.need(x.name, builder.matrix_form(x, block))
    target = builder.provide(node.outputs[1], DENSE)
    shares = split(quads(y.shape[2]) // kernel.quads, builder.workers(node.name))
    groups: object = shares.units
    before = f"int32_t *const sums = (int32_t *)(void *)R_{target};\n"
    if shares.parts > 1:
        before = f"const int32_t first = {shares.begin};\nconst int32_t groups = {shares.end} - first;\n"
        before += f"int32_t *const sums = (int32_t *)(void *)R_{target} + first * {kernel.quads * 4};\n"
        groups = "groups"
    before += f"memset(sums, 0, (size_t){groups} * {kernel.quads * 16});\n"
    fields: dict[str, object] = {
        "in": f"(const int8_t *)R_{source}",
        "in_block": quads(x.shape[2]) * TILE,
        "in_row": columns * quads(x.shape[2]) * TILE,
        "weights": _of_group(f"weights_{label}", kernel.quads * kernel.quad_bytes, shares),
        "params": _of_group(f"params_{label}", kernel.quads * e.words, shares),
        "common": f"common_{label}",
        "sums": "sums",
        "depth": kernel.depth,
        "groups": groups,
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
            body=before + call(kernel.kernel.name, "pointwise_call", fields),
            kernels=(kernel.kernel,),
            constants=constants(label, arrays),
            parts=shares.parts,
        )
    )
    return True


def _of_group(at: str, step: int, shares: Split) -> str:
    """C: where the data of the group ``first`` lie, ``step`` elements a group."""
    return at if shares.parts == 1 else f"{at} + (ptrdiff_t)first * {step}"


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
    kernel = builder.pointwise(
        quads(depth),
        quads(y.shape[2]),
        columns,
        "channel",
        e,
        plain=("in", "out"),
        knob=builder.knobs(node.name),
    )
    source = builder.need(x.name, DENSE)
    target = builder.provide(y.name, ROW)
    zero_point = np.broadcast_to(np.asarray(x.quant.zero_point if x.quant else (0,), np.int8), x.shape[2:])
    arrays = {
        "weights": (kernel.pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
        "padding": (zero_point.copy(), "table"),
    }
    gather = template_kernel("gather_quads" if x.shape[2] % 4 == 0 else "gather")
    windows = builder.scratch(f"{label}_windows", (columns * quads(depth) + 1) * TILE)
    shares = split(rows, builder.workers(node.name, own_memory=True))
    gather_call = call(
        gather.name,
        "gather_call",
        {
            "in": f"(const int8_t *)R_{source}",
            "out": "windows",
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
            "in": "windows",
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
    body = f"int8_t *const windows = (int8_t *){own(windows, shares.parts)};\n"
    body += f"memset(windows, 0, {windows.bytes});\n"
    body += f"for (int32_t row = {shares.begin}; row < {shares.end}; ++row) {{\n{loop}\n}}"
    builder.add(
        Stage(
            name=label,
            title=f"convolution {conv.kernel[0]}x{conv.kernel[1]}, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=body,
            scratch=for_shares((windows,), shares.parts),
            parts=shares.parts,
            kernels=(gather, kernel.kernel),
            constants=constants(label, arrays),
        )
    )
    return True


def lower_gate(builder: Builder, node: q.QGate) -> bool:
    """The SE gate over tiles, in place."""
    x, gate = (builder.graph.tensor(i) for i in node.inputs)
    y = builder.graph.tensor(node.output)
    if is_vector(x) or gate.shape != (1, 1, x.shape[2]) or x.dtype != "int8" or y.dtype != "int8":
        return False
    block = builder.block(node.name, "block", x.shape)
    label = identifier(node.name)
    channels = x.shape[2]
    rows, columns = grid(x.shape, block)
    zeros = np.zeros(quads(channels) * 4, np.int16)
    zeros[:channels] = node.zero_point.astype(np.int16) << node.shift
    factors = np.zeros(quads(channels) * 4, np.int16)
    factors[:channels] = node.factor
    unroll = builder.knob(node.name, "unroll", table_of("gate").default_unroll(quads(channels)))
    single, loads = loads_of(builder.knobs(node.name))
    clamp = node.low > -128 or node.high < 127
    form = builder.result_form(y, block)
    variant = ("_offset" if node.offset else "") + ("_clamp" if clamp else "")
    variant += "_octets" if form != block else ""
    name = f"gate_{unroll}_shift{node.shift}{variant}{single}_dotprod"
    source = render(
        "kernels/dotprod/gate.c.j2",
        name=name,
        loads=loads,
        shift=node.shift,
        unroll=unroll,
        offset=node.offset != 0,
        clamp=clamp,
        octets=form != block,
    )
    read, gate_region = builder.need(x.name, block), builder.need(gate.name, DENSE)
    write = builder.provide(y.name, form)
    spread = builder.scratch(f"{label}_terms", quads(channels) * 32)
    shares = split(rows * columns, builder.workers(node.name, own_memory=True))
    at = "" if shares.parts == 1 else f" + (ptrdiff_t)first * {quads(channels) * TILE}"
    body = "" if shares.parts == 1 else f"const int32_t first = {shares.begin};\n"
    body += (
        f"int16_t *const terms = (int16_t *)(void *){own(spread, shares.parts)};\n"
        f"gate_factors_dotprod((const int16_t *)(const void *)R_{gate_region}, factor_{label},"
        f" zeros_{label}, terms, {quads(channels)});\n"
        f"{name}((const int8_t *)R_{read}{at}, (int8_t *)R_{write}{at}, terms,"
        f" {node.offset}, {node.low}, {node.high},"
        f" {shares.end}{' - first' if shares.parts > 1 else ''}, {quads(channels)});"
    )
    builder.add(
        Stage(
            name=label,
            title=f"SE gate, {shape_text(y)}",
            nodes=(node.name,),
            reads=(read, gate_region),
            writes=(write,),
            body=body,
            scratch=for_shares((spread,), shares.parts),
            in_place=((read, write),),
            parts=shares.parts,
            kernels=(template_kernel("gate_factors"), Kernel(name, source)),
            constants=constants(label, {"factor": (factors, "multiplier"), "zeros": (zeros, "table")}),
        )
    )
    return True


__all__ = ["lower_dense", "lower_gate", "lower_pointwise", "lower_vector", "simple_result", "tiled_bytes"]
