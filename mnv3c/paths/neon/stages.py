"""Stages of the neon path: which kernel computes which node."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.paths.common.regions import external
from mnv3c.paths.neon.depthwise import lower_depthwise
from mnv3c.paths.neon.epilogue import CTYPE, Epilogue, epilogue_of
from mnv3c.paths.neon.pack import BLOCK, Strided, stored_offsets
from mnv3c.paths.neon.pointwise import Pointwise, lower_pointwise
from mnv3c.paths.neon.windows import SLACK, copy_rows, geometry_of, lower_gather, make_ring
from mnv3c.paths.ref.stages import lower_node as lower_portable

# Beyond this many copies a window, the portable kernel's loops are the better code.
MOST_PIECES = 49
SUM_PIXELS = 255  # as many int8 values add up in 16 bits


@dataclass(frozen=True, eq=False)
class Lowered:
    """Stages for some nodes, and what people should know about them."""

    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Context:
    """The graph and the names of its tensors' regions.

    Attributes:
        offsets: tensor to the zero points that its producer's constants hold; filled while lowering.
    """

    graph: Graph
    regions: Mapping[str, str]
    offsets: dict[str, Strided] = field(default_factory=dict)

    def remember_offsets(self, tensor: str, constant: Constant, e: Epilogue) -> None:
        stored = stored_offsets(constant, e.zero_points) if e.zero_points is not None else None
        if stored is not None:
            self.offsets[tensor] = stored

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensor(name)

    def pointer(self, name: str, *, const: bool = True) -> str:
        """C expression of a typed pointer to a tensor's first element."""
        ctype = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}[self.tensor(name).dtype]
        return f"({'const ' if const else ''}{ctype} *)R_{self.regions[name]}"

    def in_arena(self, name: str) -> bool:
        return external(self.graph, name) is None


def shape_text(t: Tensor) -> str:
    return "x".join(str(n) for n in t.shape)


def as_fused(node: Node | None) -> q.FusedConv | None:
    """A convolution as a fused one, whether or not anything is fused to it.

    ``None`` for other nodes, and for a convolution whose weights need 16 bits.
    """
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    if not isinstance(node, q.FusedConv) or node.conv.weight.dtype != np.int8:
        return None
    return node


def lower_node(context: Context, node: Node) -> Lowered:
    """Stages for one node; the portable kernels where no vector kernel fits."""
    stage: Stage | None = None
    conv = as_fused(node)
    if conv is not None:
        stage = lower_conv(context, conv)
    elif isinstance(node, q.QGate):
        stage = _gate(context, node)
    elif isinstance(node, q.ChannelSum):
        stage = _channel_sum(context, node)
    elif isinstance(node, q.Requantize):
        stage = _requantize(context, node)
    if stage is not None:
        return Lowered((stage,))
    stages = tuple(lower_portable(context.graph, node, context.regions))
    # Nodes that run once over a vector of channels are no loss.
    small = isinstance(node, q.Requantize | q.Quantize | q.Dequantize | q.FlipSign)
    notes = () if small else (f"{node.name}: portable kernel ({stages[0].title})",)
    return Lowered(stages, notes)


def lower_conv(context: Context, node: q.FusedConv) -> Stage | None:
    """A convolution as one stage, or ``None`` where its shape has no vector kernel."""
    conv = node.conv
    plan = _plan(context, node)
    if plan is None:
        return None
    e, table = plan
    if conv.depthwise:
        return _depthwise(context, node, e, table)
    if conv.groups != 1 or conv.weight.shape[0] < BLOCK:
        return None
    if conv.pointwise and context.in_arena(node.inputs[0]):
        return _pointwise(context, node, e, table)
    return _gathered(context, node, e, table)


def _plan(context: Context, node: q.FusedConv) -> tuple[Epilogue, q.QLut | None] | None:
    """The epilogue, and the table that follows it in a pass of its own."""
    if node.channel_sum is not None and context.tensor(node.outputs[0]).shape[2] % BLOCK:
        return None
    if isinstance(node.activation, q.QLut):
        bare = dataclasses.replace(node, activation=None, channel_sum=None, outputs=node.outputs[:1])
        e = epilogue_of(context.graph, bare)
        return None if e is None else (e, node.activation)
    e = epilogue_of(context.graph, node)
    return None if e is None else (e, None)


@dataclass(frozen=True, eq=False)
class Tail:
    """What follows a convolution's kernel in its stage: table, channel sums."""

    code: str
    kernels: tuple[Kernel, ...]
    constants: tuple[Constant, ...]


def conv_tail(context: Context, node: q.FusedConv, table: q.QLut | None) -> Tail:
    """C that runs once the whole result is there."""
    y = context.tensor(node.outputs[0])
    lines: list[str] = []
    kernels: list[Kernel] = []
    constants: list[Constant] = []
    if table is not None:
        name = f"table_{identifier(node.name)}"
        constants.append(Constant(name, table.table, "table"))
        out = context.pointer(node.outputs[0], const=False)
        lines.append(f"look_up_neon({out}, {name}, {y.elements});")
        kernels.append(Kernel("look_up_neon", render("kernels/neon/look_up.c.j2")))
    if node.channel_sum is not None:
        lines.append(sum_code(context, node.outputs[0], node.outputs[1]))
        kernels.append(sum_kernel())
    return Tail("\n".join(lines), tuple(kernels), tuple(constants))


def sum_kernel() -> Kernel:
    return Kernel("channel_sum_neon", render("kernels/neon/channel_sum.c.j2"))


def sum_code(context: Context, x: str, sums: str) -> str:
    """C that sums the channels of a whole tensor."""
    t = context.tensor(x)
    pixels, channels = t.shape[0] * t.shape[1], t.shape[2]
    total = context.pointer(sums, const=False)
    clear = f"memset(R_{context.regions[sums]}, 0, {4 * channels});\n"
    if pixels <= SUM_PIXELS:
        return (
            clear
            + f"channel_sum_neon({context.pointer(x)}, {channels}, {total}, {pixels}, {channels // BLOCK});"
        )
    return clear + (
        f"for (int32_t p = 0; p < {pixels}; p += {SUM_PIXELS}) {{\n"
        f"  const int32_t count = {pixels} - p < {SUM_PIXELS} ? {pixels} - p : {SUM_PIXELS};\n"
        f"  channel_sum_neon({context.pointer(x)} + p * {channels}, {channels}, {total}, count, "
        f"{channels // BLOCK});\n"
        "}"
    )


def _pointwise(context: Context, node: q.FusedConv, e: Epilogue, table: q.QLut | None) -> Stage:
    label = identifier(node.name)
    x, y = context.tensor(node.inputs[0]), context.tensor(node.outputs[0])
    pixels = x.shape[0] * x.shape[1]
    weight = node.conv.weight.reshape(y.shape[2], x.shape[2])
    kernel = lower_pointwise(label, weight, e, pixels)
    residual = context.pointer(node.inputs[1]) if node.residual is not None else ""
    body = kernel.call(
        context.pointer(node.inputs[0]),
        x.shape[2],
        context.pointer(node.outputs[0], const=False),
        y.shape[2],
        pixels,
        residual,
    )
    kind = "fully connected" if pixels == 1 else "convolution 1x1"
    return finish(
        context,
        (node,),
        f"{kind}, {shape_text(x)} to {shape_text(y)}",
        body,
        kernel.kernels,
        (kernel.constant,),
        (),
        table,
        residual_in_place(context, node),
    )


def finish(
    context: Context,
    members: Sequence[q.FusedConv],
    title: str,
    body: str,
    kernels: Sequence[Kernel],
    constants: Sequence[Constant],
    scratch: Sequence[Region],
    table: q.QLut | None,
    in_place: tuple[tuple[str, str], ...],
) -> Stage:
    """Add the tail of the last of ``members`` and wrap their C into a stage."""
    node = members[-1]
    tail = conv_tail(context, node, table)
    inside = {o for m in members for o in m.outputs}
    reads = [i for m in members for i in m.inputs if i not in inside]
    return Stage(
        name=identifier(node.name),
        title=title,
        nodes=tuple(m.name for m in members),
        reads=tuple(dict.fromkeys(context.regions[i] for i in reads)),
        writes=tuple(context.regions[o] for o in node.outputs),
        body=body + "\n" + (tail.code + "\n" if tail.code else ""),
        scratch=tuple(scratch),
        in_place=in_place,
        kernels=(*kernels, *tail.kernels),
        constants=(*constants, *tail.constants),
    )


def residual_in_place(context: Context, node: q.FusedConv) -> tuple[tuple[str, str], ...]:
    """The residual operand may become the result where each value is read before it is written, once."""
    if node.residual is None or node.inputs[0] == node.inputs[1]:
        return ()
    a, y = context.tensor(node.inputs[1]), context.tensor(node.outputs[0])
    if y.shape[2] % BLOCK or a.dtype != y.dtype:
        return ()
    return ((context.regions[node.inputs[1]], context.regions[node.outputs[0]]),)


def _depthwise(context: Context, node: q.FusedConv, e: Epilogue, table: q.QLut | None) -> Stage | None:
    conv = node.conv
    x, y = context.tensor(node.inputs[0]), context.tensor(node.outputs[0])
    if e.kind not in ("int8", "swish") or y.shape[2] < BLOCK:
        return None
    label = identifier(node.name)
    ring = make_ring(label, geometry_of(conv, x, y.shape[0], y.shape[1]), x)
    row = lower_depthwise(label, conv, e, y.shape[1])
    context.remember_offsets(node.outputs[0], row.constant, e)
    body = ring.body(
        copy_rows(ring, context.pointer(node.inputs[0])),
        row.code(f"({context.pointer(node.outputs[0], const=False)}) + y * {y.shape[1] * y.shape[2]}"),
    )
    kh, kw = conv.kernel
    title = f"depthwise convolution {kh}x{kw}, {shape_text(x)} to {shape_text(y)}"
    constants = (row.constant, *ring.constants)
    return finish(
        context,
        (node,),
        title,
        body,
        (*ring.kernels, *row.kernels),
        constants,
        (ring.region,),
        table,
        residual_in_place(context, node),
    )


def _gathered(context: Context, node: q.FusedConv, e: Epilogue, table: q.QLut | None) -> Stage | None:
    conv = node.conv
    kh, kw = conv.kernel
    if kh * (1 if conv.dilation[1] == 1 else kw) > MOST_PIECES:
        return None
    x, y = context.tensor(node.inputs[0]), context.tensor(node.outputs[0])
    label = identifier(node.name)
    ring = make_ring(label, geometry_of(conv, x, y.shape[0], y.shape[1]), x)
    gather = lower_gather(conv, ring.geometry)
    kernel: Pointwise = lower_pointwise(label, conv.weight.reshape(y.shape[2], -1), e, y.shape[1])
    columns = Region(f"{label}_columns", gather.bytes)
    at = f"y * {y.shape[1] * y.shape[2]}"
    residual = f"({context.pointer(node.inputs[1])}) + {at}" if node.residual is not None else ""
    out = f"({context.pointer(node.outputs[0], const=False)}) + {at}"
    consume = f"{gather.kernel.name}(window, (int8_t *)R_{columns.name}, {y.shape[1]});\n" + kernel.call(
        f"(const int8_t *)R_{columns.name}", gather.step, out, y.shape[2], y.shape[1], residual
    )
    body = ring.body(copy_rows(ring, context.pointer(node.inputs[0])), consume)
    title = f"convolution {kh}x{kw}, {shape_text(x)} to {shape_text(y)}"
    kernels = (*ring.kernels, gather.kernel, *kernel.kernels)
    constants = (kernel.constant, *ring.constants)
    return finish(
        context,
        (node,),
        title,
        body,
        kernels,
        constants,
        (ring.region, columns),
        table,
        residual_in_place(context, node),
    )


def _gate(context: Context, node: q.QGate) -> Stage | None:
    x, gate = (context.tensor(i) for i in node.inputs)
    channels = x.shape[2]
    if gate.shape != (1, 1, channels) or gate.dtype != "int16" or channels % BLOCK:
        return None
    label = identifier(node.name)
    factor = np.broadcast_to(node.factor, (channels,)).astype(np.int16)
    points = np.broadcast_to(node.zero_point, (channels,)).astype(np.int8)
    stored = context.offsets.get(node.inputs[0])
    if stored is None or not np.array_equal(stored.values, points):
        name = f"zero_points_{label}"
        stored = Strided(points, Constant(name, points, "table"), name, BLOCK)
    clamped = (node.low, node.high) != (-128, 127)
    name = f"gate_neon{f'_c{node.low}to{node.high}'.replace('-', 'n') if clamped else ''}"
    pixels, groups = x.shape[0] * x.shape[1], channels // BLOCK
    arguments = (
        context.pointer(node.inputs[0]),
        context.pointer(node.output, const=False),
        channels,
        context.pointer(node.inputs[1]),
        f"factor_{label}",
        stored.first,
        stored.block,
        node.shift,
        node.offset,
        pixels,
        groups,
    )
    return Stage(
        name=label,
        title=f"SE gate, {shape_text(x)}",
        nodes=(node.name,),
        reads=tuple(context.regions[i] for i in node.inputs),
        writes=(context.regions[node.output],),
        body=f"{name}({', '.join(str(a) for a in arguments)});\n",
        in_place=((context.regions[node.inputs[0]], context.regions[node.output]),),
        kernels=(Kernel(name, render("kernels/neon/gate.c.j2", name=name, node=node)),),
        constants=(
            Constant(f"factor_{label}", factor, "multiplier"),
            stored.constant,
        ),
    )


def _channel_sum(context: Context, node: q.ChannelSum) -> Stage | None:
    x = context.tensor(node.inputs[0])
    if x.shape[2] % BLOCK:
        return None
    return Stage(
        name=identifier(node.name),
        title=f"channel sums, {shape_text(x)}",
        nodes=(node.name,),
        reads=(context.regions[node.inputs[0]],),
        writes=(context.regions[node.output],),
        body=sum_code(context, node.inputs[0], node.output) + "\n",
        kernels=(sum_kernel(),),
    )


def _requantize(context: Context, node: q.Requantize) -> Stage | None:
    y = context.tensor(node.output)
    r, channels = node.requant, y.shape[2]
    if channels % BLOCK or r.offset.any() or r.right is not None:
        return None
    label = identifier(node.name)
    out_type = CTYPE[y.dtype]
    clamp = f"_c{r.low}to{r.high}".replace("-", "n") if y.dtype == "int8" else ""
    name = f"requantize_neon_{y.dtype}_s{r.shift}{clamp}"
    source = render(
        "kernels/neon/requantize.c.j2", name=name, out_type=out_type, shift=r.shift, low=r.low, high=r.high
    )
    out = context.pointer(node.output, const=False)
    return Stage(
        name=label,
        title=f"requantise the pool, {shape_text(y)}",
        nodes=(node.name,),
        reads=(context.regions[node.inputs[0]],),
        writes=(context.regions[node.output],),
        body=(
            f"{name}({context.pointer(node.inputs[0])}, bias_{label}, multiplier_{label}, "
            f"{out}, {channels // BLOCK});\n"
        ),
        kernels=(Kernel(name, source),),
        constants=(
            Constant(f"bias_{label}", node.bias, "bias"),
            Constant(f"multiplier_{label}", r.multiplier, "multiplier"),
        ),
    )


def regions_of(context: Context) -> tuple[Region, ...]:
    """A region for each tensor, with slack for whole-vector reads where the memory is ours."""
    result = []
    for t in context.graph.tensors.values():
        outside = external(context.graph, t.name)
        size = t.bytes if outside else t.bytes + SLACK
        result.append(Region(context.regions[t.name], size, align=16, external=outside))
    return tuple(result)
