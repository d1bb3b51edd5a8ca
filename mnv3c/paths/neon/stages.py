"""Stages of the neon path: which kernel computes which node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.notes import portable_notes
from mnv3c.paths.common.shares import LEAST_ELEMENTS
from mnv3c.paths.common.wide import in_16_bits
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.elementwise import lower_elementwise
from mnv3c.paths.neon.epilogue import pool_epilogue
from mnv3c.paths.neon.maps import lower_map
from mnv3c.paths.neon.pack import BLOCK, Strided, pack_lanes
from mnv3c.paths.neon.pointwise import Pointwise, pixel_runs
from mnv3c.paths.neon.shares import Shares, cut, efficiency
from mnv3c.paths.neon.steps import Step, lower_step, step_of, sums_bytes
from mnv3c.paths.neon.sums import sum_code, sum_kernel
from mnv3c.paths.ref.stages import lower_node as lower_portable
from mnv3c.schedules import table_of

LEAST_MACS = 64 * 1024  # below, waking other threads costs more than they save
GATE_BYTES = 12 * 1024  # of a share, so that it stays in the first-level cache


@dataclass(frozen=True, eq=False)
class Lowered:
    """Stages for some nodes, and what people should know about them."""

    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()


def lower_node(context: Context, node: Node) -> Lowered:
    """Stages for one node; the portable kernels where no vector kernel fits."""
    stage: Stage | None = None
    step = step_of(context, node)
    if step is not None:
        assert step.kind == "pointwise"  # all others are chains
        stage = _pointwise(context, step)
    elif in_16_bits(context.graph, node):
        stage = None
    elif isinstance(node, q.QGate):
        stage = _gate(context, node) or lower_map(context, node)
    elif isinstance(node, q.ChannelSum):
        stage = _channel_sum(context, node)
    elif isinstance(node, q.Requantize):
        stage = _requantize(context, node)
    else:
        stage = lower_elementwise(context, node) or lower_map(context, node)
    if stage is not None:
        return Lowered((stage,))
    stages = tuple(lower_portable(context.graph, node, context.regions))
    return Lowered(stages, portable_notes(node, stages[0]))


def _pointwise(context: Context, step: Step) -> Stage:
    """A 1x1 convolution over all pixels: threads share those, or the output channels."""
    node, x, y = step.node, step.x, step.y
    pixels, depth, columns = x.shape[0] * x.shape[1], x.shape[2], y.shape[2]
    lowered = lower_step(context, step, pixels)
    kernel = lowered.kernel
    assert isinstance(kernel, Pointwise)
    from_, to = context.pointer(node.inputs[0]), context.pointer(node.outputs[0], const=False)
    residual = context.pointer(step.residual) if step.residual is not None else ""
    runs: dict[int, int | str] = dict(pixel_runs(pixels))
    sums = node.channel_sum is not None
    rules = table_of("pointwise")
    own_chunk = rules.default_chunk_neon(kernel.blocks, kernel.block_bytes)
    chunk = min(context.knob(node.name, "chunk", own_chunk), kernel.blocks)
    workers = context.knob(node.name, "workers", rules.default_workers())
    totals = -(-sums_bytes(pixels) // 64) * 64  # of the pixels, where the weights are lifted

    def totals_of(shares: Shares, count: str) -> list[str]:
        if not kernel.lifted:
            return []
        at = f"R_{step.label}_totals + {shares.first} * {totals}"
        pointer = f"int32_t *const totals = (int32_t *)(void *)({at});"
        return [pointer, *lowered.pixel_sums(from_, depth, "totals", count)]

    large = node.conv.weight.size * pixels >= LEAST_MACS
    # Whole tiles of 4 pixels are shared out, the smaller ones are the last share's.
    tiles = Shares(int(runs.get(4, 0)), 1)
    blocks = Shares(kernel.blocks, 1)
    if large and not sums:
        tiles = cut(tiles.units, least=2, workers=workers)
    if large and (step.table is None or columns % BLOCK == 0):
        blocks = cut(kernel.blocks, workers=workers)
    if tiles.parts > 1 and efficiency(tiles.sizes, workers) >= efficiency(blocks.sizes, workers):
        shares = tiles
        lines = [f"const int32_t first = {tiles.begin};", f"const int32_t tiles = {tiles.end} - first;"]
        rest = [f"{n} * ({tiles.with_last(int(count))})" for n, count in runs.items() if n < 4]
        runs = {n: "tiles" if n == 4 else tiles.with_last(int(count)) for n, count in runs.items()}
        from_ += f" + first * {4 * depth}"
        to += f" + first * {4 * columns}"
        residual += f" + first * {4 * columns}" if residual else ""
        own = " + ".join(["4 * tiles", *rest])
        lines += totals_of(tiles, own)
        blocks_ = str(kernel.blocks)
        lines.append(
            kernel.chunks(from_, depth, to, str(columns), runs, residual, "0", blocks_, chunk, "totals")
        )
        lines += kernel.rest(from_, depth, to, str(columns), runs, residual, sums="totals")
        lines += lowered.look_up(to, f"({own}) * {columns}", "0", 1)
    else:
        shares = blocks
        lines = [f"const int32_t begin = {blocks.begin};", f"const int32_t end = {blocks.end};"]
        lines += totals_of(blocks, str(pixels))
        lines.append(
            kernel.chunks(from_, depth, to, str(columns), runs, residual, "begin", "end", chunk, "totals")
        )
        lines += kernel.rest(from_, depth, to, str(columns), runs, residual, blocks.with_last(1), "totals")
        if blocks.parts > 1:
            lines += lowered.look_up(f"{to} + 8 * begin", "8 * (end - begin)", str(columns), pixels)
        else:
            lines += lowered.look_up(to, str(pixels * columns), "0", 1)
        if sums:
            lines.append(sum_code(context, node.outputs[0], node.outputs[1], "begin", "(end - begin)"))
    kind = "fully connected" if pixels == 1 else "convolution 1x1"
    return Stage(
        name=step.label,
        title=f"{kind}, {shape_text(x)} to {shape_text(y)}",
        nodes=(node.name,),
        reads=tuple(dict.fromkeys(context.regions[i] for i in node.inputs)),
        writes=tuple(context.regions[o] for o in node.outputs),
        body="\n".join(lines) + "\n",
        scratch=(Region(f"{step.label}_totals", shares.parts * totals, 64),) if kernel.lifted else (),
        in_place=_residual_in_place(context, step),
        kernels=(*lowered.kernels, *((sum_kernel(),) if sums else ())),
        constants=lowered.constants,
        parts=shares.parts,
    )


def _residual_in_place(context: Context, step: Step) -> tuple[tuple[str, str], ...]:
    """The residual operand may become the result where each value is read before it is written, once."""
    node = step.node
    if step.residual is None or node.inputs[0] == node.inputs[1]:
        return ()
    a = context.tensor(step.residual)
    if step.y.shape[2] % BLOCK or a.dtype != step.y.dtype:
        return ()
    return ((context.regions[step.residual], context.regions[node.outputs[0]]),)


def _gate(context: Context, node: q.QGate) -> Stage | None:
    x, gate = (context.tensor(i) for i in node.inputs)
    channels = x.shape[2]
    vector = x.shape == context.tensor(node.output).shape and gate.shape == (1, 1, channels)
    if not vector or gate.dtype != "int16" or channels % BLOCK:
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
    parts = max(cut(pixels, least=2).parts if x.elements >= LEAST_ELEMENTS else 1, x.elements // GATE_BYTES)
    shares = Shares(pixels, min(parts, pixels))
    first = shares.edge("part")
    at = f" + ({first}) * {channels}" if shares.parts > 1 else ""
    arguments = (
        context.pointer(node.inputs[0]) + at,
        context.pointer(node.output, const=False) + at,
        channels,
        context.pointer(node.inputs[1]),
        f"factor_{label}",
        stored.first,
        stored.block,
        node.shift,
        node.offset,
        f"{shares.edge('(part + 1)')} - {first}" if shares.parts > 1 else pixels,
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
        parts=shares.parts,
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
    channels = y.shape[2]
    if channels % BLOCK or (y.dtype == "int16" and node.requant.offset.any()):
        return None
    label = identifier(node.name)
    e = pool_epilogue(node, y.dtype)
    name = f"requantize_neon_{e.label}"
    constant = f"means_{label}"
    arguments = [
        context.pointer(node.inputs[0]),
        constant,
        context.pointer(node.output, const=False),
        str(channels // BLOCK),
        *e.arguments,
    ]
    return Stage(
        name=label,
        title=f"requantise the pool, {shape_text(y)}",
        nodes=(node.name,),
        reads=(context.regions[node.inputs[0]],),
        writes=(context.regions[node.output],),
        body=f"{name}({', '.join(arguments)});\n",
        kernels=(Kernel(name, render("kernels/neon/requantize.c.j2", name=name, e=e)),),
        constants=(Constant(constant, pack_lanes(np.zeros((channels, 0), np.int8), e.parameters), "bias"),),
    )
