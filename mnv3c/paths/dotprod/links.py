"""One link of a stage around a depthwise convolution, as ``templates/kernels/dotprod/block.c.j2`` wants it.

A link computes rows of its result from rows of its input: [1x1, first convolution or nothing,]
depthwise[, 1x1]. Links of one stage follow each other: the rows of one that the next wants are computed
when it wants them, and lie in a buffer of a few rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.paths.common.shares import Split, own, split
from mnv3c.paths.dotprod.bands import Bands, plan_bands, reach
from mnv3c.paths.dotprod.builder import DENSE, Builder, Form, constants, template_kernel
from mnv3c.paths.dotprod.depthwise import depthwise_kernel, pack_depthwise
from mnv3c.paths.dotprod.epilogue import Epilogue, layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import ROW, TILE, block_name, grid, quads
from mnv3c.paths.dotprod.pointwise import PointwiseKernel
from mnv3c.paths.dotprod.stages import conv_matrix
from mnv3c.paths.dotprod.stem import stem_rows
from mnv3c.paths.dotprod.windows import Block, WindowPlan, compatible, plan_window
from mnv3c.schedules import table_of

_FULL = 0xFFFFFFFF
# From this many output quads on, a pass that makes matrix operands of the input pays.
_REGROUP_FROM = 8


@dataclass(frozen=True)
class Members:
    """The convolutions of a link, and what comes before it in its stage.

    Attributes:
        expand: the 1x1 convolution before the depthwise one, if it is part of this.
        project: the 1x1 convolution behind it, if it is part of this.
        stem: the first convolution of the network, whose result only this link sees.
        flip: of the image before it.
        before: the link whose result only ``expand`` reads.
    """

    depthwise: q.FusedConv
    expand: q.FusedConv | None = None
    project: q.FusedConv | None = None
    stem: q.FusedConv | None = None
    flip: q.FlipSign | None = None
    before: Members | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names, in the order of the data."""
        earlier = self.before.nodes if self.before else ()
        own_nodes = (self.flip, self.stem, self.expand, self.depthwise, self.project)
        return (*earlier, *(n.name for n in own_nodes if n is not None))

    @property
    def by_channels(self) -> bool:
        """Groups of channels outside and bands inside, not the other way round."""
        return self.project is None and self.stem is None

    @property
    def source(self) -> str:
        """The tensor that the link reads."""
        if self.before is not None:
            return self.before.result
        first = self.flip or self.stem or self.expand or self.depthwise
        return first.inputs[0]

    @property
    def result(self) -> str:
        """The tensor that the link computes."""
        return (self.project or self.depthwise).outputs[0]

    @property
    def inner_residual(self) -> bool:
        """Whether the projection adds what the first convolution computed."""
        return bool(self.stem and self.project and self.stem.outputs[0] in self.project.inputs[1:])


def blocks_for(builder: Builder, node: q.FusedConv, from_stem: bool = False) -> tuple[Block, Block]:
    """Block shapes of a depthwise convolution's input and output; the first convolution makes rows."""
    block_in = builder.block(node.name, "block_in", builder.graph.tensor(node.inputs[0]).shape)
    block_out = builder.block(node.name, "block_out", builder.graph.tensor(node.outputs[0]).shape)
    if from_stem:
        block_in = ROW
        block_out = block_out if compatible(node.conv.stride, ROW, block_out) else ROW
        builder.settle(node.name, "block_out", block_name(block_out))
    elif not compatible(node.conv.stride, block_in, block_out):
        block_in = block_out
    builder.settle(node.name, "block_in", block_name(block_in))
    return block_in, block_out


def window_for(builder: Builder, node: q.FusedConv, from_stem: bool = False) -> WindowPlan:
    """How the window of a depthwise convolution falls on tiles."""
    conv = node.conv
    blocks = blocks_for(builder, node, from_stem)
    return plan_window(conv.kernel, conv.stride, conv.dilation, conv.pad[:2], *blocks)


@dataclass
class Parts:
    """What a stage collects from its links.

    Attributes:
        band: C: memory for what is read at once, as a depthwise result before its projection; the links of a
            stage use it one after the other.
    """

    kernels: list[Kernel] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    scratch: list[Region] = field(default_factory=list)
    band: str = ""
    reads: list[str] = field(default_factory=list)
    pulls: bool = False

    def need(self, builder: Builder, tensor: str, form: Form) -> str:
        """The region of a tensor that the stage reads."""
        region = builder.need(tensor, form)
        if region not in self.reads:
            self.reads.append(region)
        return region


def _convolution(parts: Parts, node: q.FusedConv, e: Epilogue, weights: np.ndarray) -> str:
    """Add a convolution's constants; returns their label."""
    label = identifier(node.name)
    arrays = {
        "weights": (weights, "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    parts.constants += constants(label, arrays)
    return label


def _pointwise_fields(parts: Parts, node: q.FusedConv, kernel: PointwiseKernel) -> dict[str, object]:
    e = plan_epilogue(node)
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
    parts: Parts,
    label: str,
    conv: q.QConv,
    inner: Tensor,
    block: Block,
    window: Bands,
    by_channels: bool,
    ring: bool,
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
    channels = inner.shape[2]
    zeros = np.zeros(quads(channels) * 4 + 16, np.int8)
    zeros[:channels] = np.asarray(inner.quant.zero_point if inner.quant else (0,), np.int8)
    parts.constants += constants(label, {"zeros": (zeros, "table")})
    once = by_channels and window.bands == 1 and bool((zeros[:channels] == zeros[0]).all())
    variant = masks + "_once" * (once and cut) + "_ring" * ring
    name = f"border_{window.left}_{window.right}{variant}_dotprod"
    source = render(
        "kernels/dotprod/border.c.j2",
        name=name,
        left=window.left,
        right=window.right,
        right_mask=right_mask,
        bottom_mask=bottom_mask,
        once=once and cut,
        ring=ring,
    )
    parts.kernels.append(Kernel(name, source))
    return {
        "name": name,
        "bottom": bool(bottom_mask),
        "cut": cut,
        "once": once,
    }


@dataclass(frozen=True)
class Link:
    """A link's values for the template, and what the stage must know of it.

    Attributes:
        shares: of its channel groups or of its bands.
        unit: channel quads a unit of the shares by channels.
        in_place: a row of the result is written after the last band that reads the same row of the input,
            which is the residual.
    """

    values: dict[str, object]
    shares: Split
    unit: int
    in_place: bool


@dataclass(frozen=True)
class Place:
    """Where a link stands in its stage.

    Attributes:
        region: that the stage writes; ``None`` for a link before another one.
        form: of the result.
        sums: region of the channel sums that the depthwise kernel takes.
        suffix: of its C names.
        parts: shares of the stage, ``None`` where this link decides.
        wanted: rows that the next link wants at once.
        band_bytes: what the links behind this one need of ``Parts.band``.
    """

    form: Form
    region: str | None = None
    sums: str | None = None
    suffix: str = ""
    parts: int | None = None
    wanted: int | None = None
    band_bytes: int = 0


def _source_kernel(
    builder: Builder, node: q.FusedConv, x_quads: int, count: int, columns: int
) -> PointwiseKernel:
    e = plan_epilogue(node)
    return builder.pointwise(x_quads, count, columns, "pixel", e, knob=builder.knobs(node.name))


def make_link(builder: Builder, collected: Parts, m: Members, place: Place) -> Link:
    """Plan a link and collect what it needs."""
    graph, node, conv = builder.graph, m.depthwise, m.depthwise.conv
    inner, middle, y = (graph.tensor(t) for t in (node.inputs[0], node.outputs[0], m.result))
    block_in, block_out = blocks_for(builder, node, m.stem is not None)
    plan = window_for(builder, node, m.stem is not None)
    label, s = identifier(node.name), place.suffix
    count, y_quads = quads(inner.shape[2]), quads(y.shape[2])
    rows_in, columns_in = grid(inner.shape, block_in)
    rows_out, columns_out = grid(middle.shape, block_out)
    knob = builder.knobs(node.name)

    stem = stem_rows(builder, m.stem, m.flip) if m.stem is not None else None
    expand, unit, x_quads = m.stem or m.expand, 1, count
    if expand is not None:
        x_quads = stem.in_quads if stem else quads(graph.tensor(expand.inputs[0]).shape[2])
        kernel = _source_kernel(builder, expand, x_quads, count, columns_in)
        unit = kernel.quads
    group = count
    if m.by_channels:
        x_bytes = rows_in * columns_in * x_quads * TILE if expand is not None else 0
        own_group = table_of("block").default_group(count, x_bytes, reach(plan) * columns_in * TILE)
        group = -(-min(knob("group", own_group), count) // unit) * unit
    size = (rows_out, columns_out)
    bands = plan_bands(
        plan,
        columns_in,
        size,
        group,
        not m.by_channels,
        knob,
        place.wanted,
        builder.small,
    )
    parts = place.parts
    if parts is None:
        units = count // unit if m.by_channels else bands.bands
        parts = split(units, builder.workers(node.name, own_memory=True)).parts
    shares = Split(count // unit if m.by_channels else bands.bands, parts)

    def scratch(name: str, size: int) -> str:
        region = builder.scratch(f"{label}_{name}", size, align=64)
        collected.scratch.append(region)
        return own(region, parts)

    band_bytes = max(place.band_bytes, stem.windows_bytes if stem else 0)
    if m.project is not None:
        band_bytes = max(band_bytes, (bands.band_rows * columns_out * count + 1) * TILE)
    if m.before is None and band_bytes:
        collected.band = scratch("band", band_bytes)

    ring = bool(bands.carry and (bands.bands > 1 or s))
    if ring:
        collected.kernels.append(template_kernel("ring_rows"))

    values: dict[str, object] = {
        "s": s,
        "by_channels": m.by_channels,
        "ring": ring,
        "beyond": -plan.origin[0] >= bands.rows,
        "plan": plan,
        "reach": reach(plan),
        "bands": bands.bands,
        "band_rows": bands.band_rows,
        "carry": bands.carry,
        "quads": count,
        "group": group,
        "sums": place.sums,
        "stem": None,
        "before": None,
        "window": {
            "at": scratch("window", group * bands.plane),
            "rows": bands.rows,
            "pitch": bands.pitch,
            "left": bands.left,
            "plane": bands.plane,
        },
        "border": _border(collected, label, conv, inner, block_in, bands, m.by_channels, ring),
        "expand": _pointwise_fields(collected, expand, kernel) if expand is not None else None,
    }
    x_at = None
    if stem is not None:
        collected.kernels += stem.kernels
        collected.pulls = stem.pulls
        collected.constants.append(stem.padding)
        values["stem"] = {
            **stem.values,
            "source": collected.need(builder, stem.image.name, DENSE),
            "ring": scratch("image_rows", stem.ring_bytes),
            "windows": collected.band,
        }
    if m.before is not None:
        fresh = bands.rows - bands.carry
        form = builder.matrix_form(graph.tensor(m.before.result), block_in)
        before = Place(form, suffix=f"{s}_1", parts=parts, wanted=fresh, band_bytes=band_bytes)
        values["before"] = make_link(builder, collected, m.before, before).values
        at = scratch("rows", (bands.rows * columns_in * x_quads + 1) * TILE)
        values["before"]["y"]["at"] = at  # type: ignore[index]
    elif stem is None:
        x = graph.tensor(m.source)
        x_at = "R_" + collected.need(
            builder, x.name, builder.matrix_form(x, block_in) if expand else block_in
        )
        if expand is None:
            collected.kernels.append(template_kernel("transpose"))

    e = plan_epilogue(node, want_sum=place.sums is not None)
    made = depthwise_kernel(conv, plan, block_in, block_out, e, middle.shape[1], knob, ring)
    assert made is not None
    collected.kernels.append(made.kernel)
    _convolution(collected, node, e, pack_depthwise(conv))
    values |= {
        "vectors": scratch("vectors", made.vector_bytes) if made.vector_bytes else None,
        "depthwise": {
            "label": label,
            "kernel": made.kernel.name,
            "quad_bytes": made.quad_bytes,
            "words": e.words,
            "steps": made.steps,
        },
        "x": {
            "at": x_at,
            "rows": rows_in,
            "columns": columns_in,
            "block_bytes": x_quads * TILE,
            "row_bytes": columns_in * x_quads * TILE,
        },
        "y": {
            "at": f"R_{place.region}" if place.region else None,
            "rows": rows_out,
            "block_bytes": y_quads * TILE,
            "row_bytes": columns_out * y_quads * TILE,
        },
        "middle": {"at": None, "block_bytes": count * TILE, "row_bytes": columns_out * count * TILE},
        "project": None,
        "inner_residual": None,
    }
    residual = None
    if m.project is not None:
        if m.inner_residual:
            collected.kernels.append(template_kernel("untranspose"))
            # Where the result has the same form, the sum is made where it lies.
            residual_bytes = (bands.band_rows * columns_out * y_quads + 1) * TILE
            own_form = place.form == block_out
            values["inner_residual"] = "out" if own_form else scratch("residual", residual_bytes)
        elif m.project.residual is not None:
            form = builder.residual_form(m.project.inputs[1], block_out, place.form)
            residual = collected.need(builder, m.project.inputs[1], form)
        plain = ["out"] if place.form == block_out else []
        if residual is None or form == block_out:
            plain.append("residual")
        fields = _project_fields(builder, collected, m.project, (count, y_quads, columns_out), plain, s)
        values["project"] = {**fields, "residual": residual}
        values["middle"] = {
            "at": collected.band,
            "block_bytes": count * TILE,
            "row_bytes": columns_out * count * TILE,
        }
    behind = plan.step == (1, 1) and plan.origin[0] + plan.span[0] >= 1
    in_place = residual is not None and f"R_{residual}" == x_at and behind
    return Link(values, shares, unit, in_place)


def _project_fields(
    builder: Builder,
    collected: Parts,
    node: q.FusedConv,
    shape: tuple[int, int, int],
    plain: list[str],
    suffix: str,
) -> dict[str, object]:
    """Args:
    shape: channel quads before and behind, blocks of a row.
    plain: see ``pointwise_kernel``.
    """
    count, y_quads, columns = shape
    regroup = None
    if builder.instructions.octets is not None and count % 2 == 0 and y_quads >= _REGROUP_FROM:
        made, turns = builder.instructions.octets(columns * count // 2)
        collected.kernels.append(made)
        regroup = f"{made.name}(middle{suffix}, middle{suffix}, rows{suffix} * {turns});"
    else:
        plain = [*plain, "in"]
    e, knob = plan_epilogue(node), builder.knobs(node.name)
    kernel = builder.pointwise(count, y_quads, columns, "channel", e, plain=plain, knob=knob)
    fields = _pointwise_fields(collected, node, kernel)
    return {**fields, "groups": y_quads // kernel.quads, "regroup": regroup}
