"""Stages around a depthwise convolution: what expands its input and what projects its output.

The expanded tensor exists only as a *window* of tiles: a few rows with a margin of zero points. A
stage walks down the image in *bands* of output rows; the window's last rows are carried to its top
from band to band, so that nothing is computed twice.

Two orders. Without the projection, channel groups go outside: the window holds one group, and every
weight is read once. With it, bands go outside: the window and the depthwise result hold all channels
of a few rows, and neither tensor is ever stored as a whole. That is for large maps, whose tensors
would not fit in a cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.paths.common.knobs import Knob
from mnv3c.paths.common.shares import for_shares, own, split
from mnv3c.paths.dotprod.builder import DENSE, Builder, Form, constants, shape_text, template_kernel
from mnv3c.paths.dotprod.depthwise import depthwise_kernel, pack_depthwise
from mnv3c.paths.dotprod.epilogue import Epilogue, layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import TILE, block_name, grid, quads
from mnv3c.paths.dotprod.pointwise import PointwiseKernel
from mnv3c.paths.dotprod.stages import conv_matrix, is_vector, simple_result
from mnv3c.paths.dotprod.windows import Block, WindowPlan, compatible, plan_lookup, plan_window

# Bytes of window and depthwise result that stay in a 32 KiB L1 beside input, weights and result; higher bands
# would carry fewer rows, but fill more lines.
_FUSED_BYTES = 16 * 1024
_WINDOW_BYTES = 16 * 1024
# A depthwise result of at least so many bytes is projected band by band.
_FUSE_FROM = 64 * 1024
_GROUP = 4
_FULL = 0xFFFFFFFF

# From this many output quads on, a pass that makes matrix operands of the input pays.
_REGROUP_FROM = 8


def as_fused(node: object) -> q.FusedConv | None:
    """A convolution with whatever follows it, in one form; ``None`` for one that only ``ref`` computes."""
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    if not isinstance(node, q.FusedConv) or node.conv.weight.dtype != np.int8:
        return None
    return node if node.conv.requant.right is None else None


def sole_reader(builder: Builder, tensor: str) -> q.FusedConv | None:
    """The convolution that alone reads ``tensor``."""
    graph = builder.graph
    return as_fused(graph.sole_consumer(tensor, q.FusedConv) or graph.sole_consumer(tensor, q.QConv))


def can_expand(builder: Builder, node: q.FusedConv) -> bool:
    """Whether the result of ``node`` may exist only inside the stage of the depthwise that reads it."""
    if not node.conv.pointwise or is_vector(builder.graph.tensor(node.inputs[0])):
        return False
    if not simple_result(builder, node) or node.residual is not None or node.channel_sum is not None:
        return False
    reader = sole_reader(builder, node.outputs[0])
    return reader is not None and can_depthwise(builder, reader)


def can_depthwise(builder: Builder, node: q.FusedConv) -> bool:
    """Whether ``lower_depthwise`` can compute ``node``."""
    conv = node.conv
    if not conv.depthwise or not simple_result(builder, node) or node.residual is not None:
        return False
    block_in, block_out = blocks_for(builder, node)
    plan = plan_window(conv.kernel, conv.stride, conv.dilation, conv.pad[:2], block_in, block_out)
    return plan_lookup(plan, conv.kernel[1]) is not None


def projection_of(builder: Builder, node: q.FusedConv) -> q.FusedConv | None:
    """The 1x1 convolution that should be computed together with the depthwise ``node``."""
    y = builder.graph.tensor(node.outputs[0])
    if node.channel_sum is not None:
        return None
    reader = sole_reader(builder, y.name)
    if reader is None or not reader.conv.pointwise or reader.inputs[0] != y.name:
        return None
    if not simple_result(builder, reader) or reader.channel_sum is not None:
        return None
    if reader.residual is not None and not builder.known(reader.inputs[1]):
        return None
    wanted = builder.knob(node.name, "project", "inside" if y.bytes >= _FUSE_FROM else "apart")
    return reader if wanted == "inside" else None


def blocks_for(builder: Builder, node: q.FusedConv) -> tuple[Block, Block]:
    """Block shapes of a depthwise convolution's input and output."""
    block_in = builder.block(node.name, "block_in", builder.graph.tensor(node.inputs[0]).shape)
    block_out = builder.block(node.name, "block_out", builder.graph.tensor(node.outputs[0]).shape)
    if not compatible(node.conv.stride, block_in, block_out):
        block_in = block_out
        builder.settle(node.name, "block_in", block_name(block_in))
    return block_in, block_out


@dataclass(frozen=True)
class _Window:
    """The window and the bands over which it moves.

    Attributes:
        rows, pitch: tiles; a row holds the margins too.
        left: tiles of margin before the image.
        right: tiles of margin behind it.
        band_rows: output block rows a band.
        bands: their number.
        carry: window rows that the next band needs again.
    """

    rows: int
    pitch: int
    left: int
    right: int
    band_rows: int
    bands: int
    carry: int

    @property
    def plane(self) -> int:
        """Bytes of a channel quad."""
        return self.rows * self.pitch * TILE


def _plan_bands(
    plan: WindowPlan,
    columns_in: int,
    rows_out: int,
    columns_out: int,
    quads_held: int,
    middle: bool,
    knob: Knob,
) -> _Window:
    """The highest bands whose window (and depthwise result, for ``middle``) stay in L1."""
    pitch = max((columns_out - 1) * plan.step[1] + plan.span[1], columns_in - plan.origin[1])

    def rows_of(band: int) -> int:
        return (band - 1) * plan.step[0] + max(plan.span[0], plan.step[0])

    def bytes_of(band: int) -> int:
        held = rows_of(band) * pitch + (band * columns_out if middle else 0)
        return held * quads_held * TILE

    limit = _FUSED_BYTES if middle else _WINDOW_BYTES
    most = max((b for b in range(1, rows_out + 1) if bytes_of(b) <= limit), default=1)
    bands = -(-rows_out // most)
    band = min(knob("band_rows", -(-rows_out // bands)), rows_out)
    return _Window(
        rows=rows_of(band),
        pitch=pitch,
        left=-plan.origin[1],
        right=pitch + plan.origin[1] - columns_in,
        band_rows=band,
        bands=-(-rows_out // band),
        carry=max(plan.span[0] - plan.step[0], 0),
    )


@dataclass
class _Parts:
    """What a stage collects from its convolutions."""

    kernels: list[Kernel]
    constants: list[Constant]
    scratch: list[Region]


def _convolution(parts: _Parts, node: q.FusedConv, e: Epilogue, weights: np.ndarray) -> str:
    """Add a convolution's constants; returns their label."""
    label = identifier(node.name)
    arrays = {
        "weights": (weights, "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    parts.constants += constants(label, arrays)
    return label


def _pointwise_fields(
    parts: _Parts, node: q.FusedConv, kernel: PointwiseKernel, e: Epilogue
) -> dict[str, object]:
    parts.kernels.append(kernel.kernel)
    return {
        "label": _convolution(parts, node, e, kernel.pack(conv_matrix(node))),
        "kernel": kernel.kernel.name,
        "quads": kernel.quads,
        "depth": kernel.depth,
        "steps": kernel.steps,
        "quad_bytes": kernel.quad_bytes,
        "words": e.words,
    }


def _border(
    parts: _Parts, label: str, conv: q.QConv, inner: Tensor, block: Block, window: _Window
) -> dict[str, object] | None:
    """The kernel that fills what lies outside of the image, ``None`` where nothing does."""
    right = inner.shape[1] % block[1] or block[1]
    bottom = inner.shape[0] % block[0] or block[0]
    # A right edge leaves out columns of every row of the block; a bottom edge leaves out whole rows.
    right_mask = (1 << 8 * right) - 1 if block[0] == 1 else (_FULL if right == 2 else 0x00FF00FF)
    bottom_mask = _FULL if bottom == block[0] else 0x0000FFFF
    cut = right_mask != _FULL or bottom_mask != _FULL
    if not any(conv.pad) and not cut:
        return None
    right_mask, bottom_mask = (0 if m == _FULL else m for m in (right_mask, bottom_mask))
    masks = "".join(f"_{side}{mask:x}" for side, mask in (("r", right_mask), ("b", bottom_mask)) if mask)
    name = f"border_{window.left}_{window.right}{masks}_dotprod"
    source = render(
        "kernels/dotprod/border.c.j2",
        name=name,
        left=window.left,
        right=window.right,
        right_mask=right_mask,
        bottom_mask=bottom_mask,
    )
    channels = inner.shape[2]
    zeros = np.zeros(quads(channels) * 4 + 16, np.int8)
    zeros[:channels] = np.asarray(inner.quant.zero_point if inner.quant else (0,), np.int8)
    parts.constants += constants(label, {"zeros": (zeros, "table")})
    parts.kernels.append(Kernel(name, source))
    return {
        "name": name,
        "bottom": bool(bottom_mask),
        "cut": cut,
        "once": window.bands == 1 and not cut and bool((zeros[:channels] == zeros[0]).all()),
    }


def lower_depthwise(
    builder: Builder, node: q.FusedConv, expand: q.FusedConv | None, project: q.FusedConv | None
) -> None:
    """A depthwise convolution for which ``can_depthwise`` holds.

    Args:
        expand: the 1x1 convolution before it, if that waits for this stage.
        project: the 1x1 convolution after it, if that belongs into this stage.
    """
    graph, conv = builder.graph, node.conv
    inner, middle = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    x = graph.tensor(expand.inputs[0]) if expand else inner
    y = graph.tensor(project.outputs[0]) if project else middle
    block_in, block_out = blocks_for(builder, node)
    plan = plan_window(conv.kernel, conv.stride, conv.dilation, conv.pad[:2], block_in, block_out)
    label = identifier(node.name)
    parts = _Parts([], [], [])
    count = quads(inner.shape[2])
    x_quads, y_quads = quads(x.shape[2]), quads(y.shape[2])
    rows_in, columns_in = grid(inner.shape, block_in)
    rows_out, columns_out = grid(middle.shape, block_out)

    expand_fields = None
    unit = 1
    group = min(builder.knob(node.name, "group", _GROUP), count)
    if expand is not None:
        e = plan_epilogue(expand)
        kernel = builder.pointwise(x_quads, count, columns_in, "pixel", e, knob=builder.knobs(expand.name))
        unit = kernel.quads
        group = -(-group // unit) * unit
        expand_fields = _pointwise_fields(parts, expand, kernel, e)
    else:
        parts.kernels.append(template_kernel("transpose"))
    held = count if project else group
    knob = builder.knobs(node.name)
    window = _plan_bands(plan, columns_in, rows_out, columns_out, held, project is not None, knob)
    shares = split(window.bands) if project else split(count // unit)
    window_region = builder.scratch(f"{label}_window", held * window.plane, align=64)
    parts.scratch.append(window_region)
    border = _border(parts, label, conv, inner, block_in, window)
    if window.bands > 1 and window.carry:
        parts.kernels.append(template_kernel("carry"))

    fuse_sum = _sums_in_kernel(builder, node, block_out)
    e = plan_epilogue(node, want_sum=fuse_sum)
    made = depthwise_kernel(conv, plan, block_in, block_out, e, middle.shape[1], knob)
    assert made is not None
    parts.kernels.append(made.kernel)
    _convolution(parts, node, e, pack_depthwise(conv))
    vectors = None
    if made.vector_bytes:
        vectors = builder.scratch(f"{label}_vectors", made.vector_bytes)
        parts.scratch.append(vectors)

    source = builder.need(x.name, builder.matrix_form(x, block_in) if expand else block_in)
    reads = [source]
    middle_region = None
    project_fields = None
    form: Form = block_out
    residual = None
    if project is not None:
        pe = plan_epilogue(project)
        form = builder.result_form(y, block_out)
        operand_form = form
        if project.residual is not None:
            operand_form = builder.residual_form(project.inputs[1], block_out, form)
        plain = [n for n, f in (("out", form), ("residual", operand_form)) if f == block_out]
        regroup = None
        if builder.instructions.octets is not None and count % 2 == 0 and y_quads >= _REGROUP_FROM:
            regroup, turns = builder.instructions.octets(columns_out * count // 2)
            parts.kernels.append(regroup)
        else:
            plain.append("in")
        kernel = builder.pointwise(
            count, y_quads, columns_out, "channel", pe, plain=plain, knob=builder.knobs(project.name)
        )
        project_fields = _pointwise_fields(parts, project, kernel, pe)
        project_fields["groups"] = y_quads // kernel.quads
        project_fields["regroup"] = f"{regroup.name}(middle, middle, rows * {turns});" if regroup else None
        parts.scratch.append(
            builder.scratch(f"{label}_band", (window.band_rows * columns_out * count + 1) * TILE, align=64)
        )
        middle_region = parts.scratch[-1]
        if project.residual is not None:
            residual = builder.need(project.inputs[1], operand_form)
            reads += [residual] if residual not in reads else []
        project_fields["residual"] = residual
    target = builder.provide(y.name, form)
    writes = [target]
    sums = None
    if fuse_sum:
        sums = builder.provide(node.outputs[1], DENSE)
        writes.append(sums)
    body = render(
        "kernels/dotprod/block.c.j2",
        x={
            "region": source,
            "rows": rows_in,
            "columns": columns_in,
            "block_bytes": x_quads * TILE,
            "row_bytes": columns_in * x_quads * TILE,
        },
        y={
            "region": target,
            "rows": rows_out,
            "block_bytes": y_quads * TILE,
            "row_bytes": columns_out * y_quads * TILE,
        },
        middle={
            "at": own(middle_region, shares.parts) if middle_region else None,
            "block_bytes": count * TILE,
            "row_bytes": columns_out * count * TILE,
        },
        window={
            "at": own(window_region, shares.parts),
            "rows": window.rows,
            "pitch": window.pitch,
            "left": window.left,
            "plane": window.plane,
        },
        vectors=own(vectors, shares.parts) if vectors else None,
        sums=sums,
        shares=shares,
        unit=unit,
        plan=plan,
        bands=window.bands,
        band_rows=window.band_rows,
        carry=window.carry,
        quads=count,
        group=group,
        expand=expand_fields,
        project=project_fields,
        border=border,
        depthwise={
            "label": label,
            "kernel": made.kernel.name,
            "quad_bytes": conv.kernel[0] * conv.kernel[1] * 4,
            "words": e.words,
            "steps": made.steps,
        },
    )
    # A row of the result is written after the last band that reads the same row of the input.
    behind = plan.step == (1, 1) and plan.origin[0] + plan.span[0] >= 1
    members = [n for n in (expand, node, project) if n is not None]
    words = set(re.findall(r"\w+", body))
    builder.add(
        Stage(
            name=label,
            title=_title(x, conv, middle, y, expand is not None, project is not None),
            nodes=tuple(n.name for n in members),
            reads=tuple(reads),
            writes=tuple(writes),
            body=body,
            scratch=for_shares(parts.scratch, shares.parts),
            parts=shares.parts,
            # Shares read rows of each other, which must not be written yet.
            in_place=((source, target),) if residual == source and behind and shares.parts == 1 else (),
            kernels=tuple(parts.kernels),
            constants=tuple(c for c in parts.constants if c.name in words),
        )
    )
    if node.channel_sum is not None and not fuse_sum:
        builder.fall_back(node.channel_sum, "sums over an uneven map")


def _sums_in_kernel(builder: Builder, node: q.FusedConv, block: Block) -> bool:
    """Whether the depthwise kernel can take the channel sums: no foreign pixel in a tile, short rows."""
    if node.channel_sum is None or node.outputs[1] in builder.graph.outputs:
        return False
    shape = builder.graph.tensor(node.outputs[0]).shape
    exact = block == (1, 4) or (shape[0] % 2 == 0 and shape[1] % 2 == 0)
    return exact and grid(shape, block)[1] <= 120  # a row's sums are int16: 2 * 120 * 128 < 2**15


def _title(x: Tensor, conv: q.QConv, middle: Tensor, y: Tensor, expand: bool, project: bool) -> str:
    steps = ["1x1"] if expand else []
    steps += [f"depthwise {conv.kernel[0]}x{conv.kernel[1]}"]
    steps += ["1x1"] if project else []
    shapes = [shape_text(t) for t in ((x, middle, y) if project else (x, y))]
    return f"{', '.join(steps)}: {' to '.join(shapes)}"
