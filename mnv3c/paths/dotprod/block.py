"""Stages around a depthwise convolution: what expands its input and what projects its output.

The expanded tensor exists only as a *window* of tiles: a few rows with a margin of zero points. A
stage walks down the image in *bands* of output rows; the window is a ring, in which the rows that two
bands share stay where they are, so that nothing is computed twice.

Two orders. Without the projection, channel groups go outside: the window holds one group, and every
weight is read once. With it, bands go outside: the window and the depthwise result hold all channels
of a few rows, and neither tensor is ever stored as a whole. That is for large maps, whose tensors
would not fit in a cache. There, what comes before may be computed row by row too: the first
convolution of the network, and a whole block whose result only the expansion reads.

Workers that share a stage by bands each have a window, and compute the rows where they meet twice.
"""

from __future__ import annotations

import re

from mnv3c.codegen.program import Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.shares import for_shares, slice_bytes
from mnv3c.paths.common.wide import in_16_bits
from mnv3c.paths.dotprod.builder import DENSE, Builder, template_kernel, unique
from mnv3c.paths.dotprod.layout import TILE, quads, sums_in_tiles
from mnv3c.paths.dotprod.links import Members, Parts, Place, blocks_for, make_link, window_for
from mnv3c.paths.dotprod.stages import is_vector, simple_result
from mnv3c.paths.dotprod.stem import can_stem
from mnv3c.paths.dotprod.windows import Block, plan_lookup
from mnv3c.schedules import table_of


def as_fused(node: object) -> q.FusedConv | None:
    """A convolution with whatever follows it, in one form; ``None`` for another operator."""
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    return node if isinstance(node, q.FusedConv) else None


def sole_reader(builder: Builder, tensor: str) -> q.FusedConv | None:
    """The convolution that alone reads ``tensor``."""
    graph = builder.graph
    reader = graph.sole_consumer(tensor, q.FusedConv) or graph.sole_consumer(tensor, q.QConv)
    return None if reader is None or in_16_bits(graph, reader) else as_fused(reader)


def can_expand(builder: Builder, node: q.FusedConv) -> bool:
    """Whether the result of ``node`` may exist only inside the stage of the depthwise that reads it."""
    if not node.conv.pointwise or is_vector(builder.graph.tensor(node.inputs[0])):
        return False
    if not simple_result(builder, node) or node.residual is not None or node.channel_sum is not None:
        return False
    reader = sole_reader(builder, node.outputs[0])
    return reader is not None and can_depthwise(builder, reader)


def can_depthwise(builder: Builder, node: q.FusedConv, from_stem: bool = False) -> bool:
    """Whether ``lower_depthwise`` can compute ``node``."""
    conv = node.conv
    if not conv.depthwise or not simple_result(builder, node) or node.residual is not None:
        return False
    return plan_lookup(window_for(builder, node, from_stem), conv.kernel[1]) is not None


def projection_of(builder: Builder, node: q.FusedConv, inner: str | None = None) -> q.FusedConv | None:
    """The 1x1 convolution that should be computed together with the depthwise ``node``.

    Args:
        inner: a tensor that the stage itself computes, which the projection may add.
    """
    y = builder.graph.tensor(node.outputs[0])
    if node.channel_sum is not None:
        return None
    reader = sole_reader(builder, y.name)
    if reader is None or not reader.conv.pointwise or reader.inputs[0] != y.name:
        return None
    if not simple_result(builder, reader) or reader.channel_sum is not None:
        return None
    if reader.residual is not None and reader.inputs[1] != inner and not builder.known(reader.inputs[1]):
        return None
    wanted = builder.knob(node.name, "project", table_of("network").default_project(y.bytes, builder.small))
    return reader if wanted == "inside" else None


def stem_waits(builder: Builder, node: q.FusedConv) -> bool:
    """Whether the first convolution's result may exist only inside the stage of the depthwise after it."""
    graph, y = builder.graph, node.outputs[0]
    if not can_stem(builder, node) or y in graph.outputs:
        return False
    readers = [as_fused(n) for n in graph.consumers(y)]
    first = next((r for r in readers if r is not None and r.conv.depthwise), None)
    if first is None or not can_depthwise(builder, first, from_stem=True):
        return False
    project = projection_of(builder, first, inner=y)
    if any(r is None or r.name not in (first.name, project.name if project else "") for r in readers):
        return False
    return builder.knob(node.name, "next", table_of("network").default_next_of_stem()) == "inside"


def link_waits(builder: Builder, m: Members) -> bool:
    """Whether the result of a link may exist only inside the stage of the next block, some rows at once."""
    graph, y = builder.graph, builder.graph.tensor(m.result)
    if m.project is None or y.name in graph.outputs:
        return False
    expand = sole_reader(builder, y.name)
    if expand is None or not can_expand(builder, expand):
        return False
    reader = sole_reader(builder, expand.outputs[0])
    if reader is None or projection_of(builder, reader) is None:
        return False
    if blocks_for(builder, reader)[0] != blocks_for(builder, m.depthwise, m.stem is not None)[1]:
        return False
    own = table_of("network").default_next(y.bytes, builder.small)
    return builder.knob(m.depthwise.name, "next", own) == "inside"


def lower_depthwise(builder: Builder, m: Members) -> None:
    """A link that ends in this stage, and those before it."""
    graph, node = builder.graph, m.depthwise
    block_out = blocks_for(builder, node, m.stem is not None)[1]
    y = graph.tensor(m.result)
    label = identifier(node.name)
    collected = Parts()
    form = builder.result_form(y, block_out) if m.project else block_out
    fuse_sum = _sums_in_kernel(builder, node, block_out)
    sum_bytes = quads(graph.tensor(node.outputs[0]).shape[2]) * TILE
    sums = shared_sums = None
    link = make_link(builder, collected, m, Place(form, sums="" if fuse_sum else None))
    target = builder.provide(y.name, form)
    writes = [target]
    if fuse_sum:
        sums = builder.provide(node.outputs[1], DENSE)
        writes.append(sums)
        if not m.by_channels and link.shares.parts > 1:
            # Each share has sums of its own, over its rows.
            shared_sums = builder.shared(f"{label}_sums", slice_bytes(sum_bytes) * link.shares.parts)
            writes[-1] = shared_sums
    link.values["y"]["at"] = f"R_{target}"  # type: ignore[index]
    body = render(
        "kernels/dotprod/block.c.j2",
        link={**link.values, "sums": writes[1] if fuse_sum else None},
        shares=link.shares,
        unit=link.unit,
        sum_bytes=slice_bytes(sum_bytes),
    )
    words = set(re.findall(r"\w+", body))
    builder.add(
        Stage(
            name=label,
            title=_title(builder, m),
            nodes=m.nodes,
            reads=tuple(collected.reads),
            writes=tuple(writes),
            body=body,
            scratch=for_shares(collected.scratch, link.shares.parts),
            parts=link.shares.parts,
            # Shares read rows of each other, which must not be written yet.
            in_place=((collected.reads[0], target),) if link.in_place and link.shares.parts == 1 else (),
            kernels=unique(collected.kernels),
            constants=tuple(c for c in collected.constants if c.name in words),
            pulls=collected.pulls,
        )
    )
    if shared_sums is not None:
        _add_sums(builder, node, shared_sums, str(sums), link.shares.parts, sum_bytes)
    if node.channel_sum is not None and not fuse_sum:
        builder.fall_back(node.channel_sum, "sums over an uneven map")


def _add_sums(builder: Builder, node: q.FusedConv, source: str, target: str, parts: int, size: int) -> None:
    """The stage that adds the shares' channel sums."""
    builder.add_plain(
        Stage(
            name=f"{identifier(node.name)}_sums",
            title=f"add the shares' sums, {shape_text(builder.graph.tensor(node.outputs[1]))}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=f"add_shares_dotprod((const int32_t *)(const void *)R_{source},"
            f" (int32_t *)(void *)R_{target}, {parts}, {slice_bytes(size) // 4}, {size // 4});",
            kernels=(template_kernel("add_shares"),),
        )
    )


def _sums_in_kernel(builder: Builder, node: q.FusedConv, block: Block) -> bool:
    """Whether the depthwise kernel takes the channel sums."""
    if node.channel_sum is None or node.outputs[1] in builder.graph.outputs:
        return False
    return sums_in_tiles(builder.graph.tensor(node.outputs[0]).shape, block)


def _title(builder: Builder, m: Members) -> str:
    tensor = builder.graph.tensor
    steps: list[str] = []
    shapes = [tensor(m.source)]
    links = [m]
    while links[0].before is not None:
        links.insert(0, links[0].before)
    for link in links:
        if link.stem is not None:
            steps.append("convolution " + "x".join(str(k) for k in link.stem.conv.kernel))
            shapes.append(tensor(link.stem.outputs[0]))
        steps += ["1x1"] if link.expand else []
        kernel = link.depthwise.conv.kernel
        steps.append(f"depthwise {kernel[0]}x{kernel[1]}")
        shapes.append(tensor(link.depthwise.outputs[0]))
        if link.project is not None:
            steps.append("1x1")
            shapes.append(tensor(link.project.outputs[0]))
    return f"{', '.join(steps)}: {' to '.join(shape_text(t) for t in shapes)}"
