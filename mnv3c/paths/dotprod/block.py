"""Stages around a depthwise convolution: what expands its input and what projects its output."""

from __future__ import annotations

import re

import numpy as np

from mnv3c.codegen.program import Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants, shape_text, template_kernel
from mnv3c.paths.dotprod.depthwise import depthwise_kernel, pack_depthwise
from mnv3c.paths.dotprod.epilogue import layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import TILE, best_block, grid, quads
from mnv3c.paths.dotprod.stages import is_vector, simple_result
from mnv3c.paths.dotprod.windows import Block, compatible, plan_lookup, plan_window


def as_fused(node: object) -> q.FusedConv | None:
    """A convolution with whatever follows it, in one form; ``None`` for one whose weights need 16 bits."""
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    return node if isinstance(node, q.FusedConv) and node.conv.weight.dtype == np.int8 else None


def can_expand(builder: Builder, node: q.FusedConv) -> bool:
    """Whether the result of ``node`` may exist only inside the stage of the depthwise that reads it."""
    graph = builder.graph
    x = graph.tensor(node.inputs[0])
    if not node.conv.pointwise or is_vector(x) or not simple_result(builder, node):
        return False
    if node.residual is not None or node.channel_sum is not None:
        return False
    user = graph.sole_consumer(node.outputs[0], q.FusedConv) or graph.sole_consumer(node.outputs[0], q.QConv)
    follower = as_fused(user)
    return follower is not None and can_depthwise(builder, follower)


def can_depthwise(builder: Builder, node: q.FusedConv) -> bool:
    conv = node.conv
    if not conv.depthwise or not simple_result(builder, node) or node.residual is not None:
        return False
    block_in, block_out = blocks_for(builder, node)
    plan = plan_window(conv.kernel, conv.stride, conv.dilation, conv.pad[:2], block_in, block_out)
    return plan_lookup(plan, conv.kernel[1]) is not None


def blocks_for(builder: Builder, node: q.FusedConv) -> tuple[Block, Block]:
    """Block shapes of a depthwise convolution's input and output."""
    block_in = best_block(builder.graph.tensor(node.inputs[0]).shape)
    block_out = best_block(builder.graph.tensor(node.outputs[0]).shape)
    return (block_in if compatible(node.conv.stride, block_in, block_out) else block_out), block_out


def _zero_points(t: Tensor) -> np.ndarray:
    values = np.zeros(quads(t.shape[2]) * 4 + 16, np.int8)
    values[: t.shape[2]] = np.asarray(t.quant.zero_point if t.quant else (0,), np.int8)
    return values


def _edge_mask(pixels: int) -> int:
    """Bytes of a 32-bit lane of a pixel-minor tile whose pixels lie in the image."""
    return (1 << 8 * pixels) - 1


def _border_kernel(left: int, right: int, right_mask: int, bottom_mask: int) -> Kernel:
    """Fills a window's margin of ``left`` and ``right`` tiles; a mask of 0 means that no tile is cut."""
    masks = "".join(f"_{side}{mask:x}" for side, mask in (("r", right_mask), ("b", bottom_mask)) if mask)
    name = f"border_{left}_{right}{masks}_dotprod"
    source = render(
        "kernels/dotprod/border.c.j2",
        name=name,
        left=left,
        right=right,
        right_mask=right_mask,
        bottom_mask=bottom_mask,
    )
    return Kernel(name, source)


def lower_depthwise(builder: Builder, node: q.FusedConv, expand: q.FusedConv | None) -> bool:
    """A depthwise convolution with the 1x1 convolution before it, if that is given."""
    graph, conv = builder.graph, node.conv
    inner, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    x = graph.tensor(expand.inputs[0]) if expand else inner
    block_in, block_out = blocks_for(builder, node)
    plan = plan_window(conv.kernel, conv.stride, conv.dilation, conv.pad[:2], block_in, block_out)
    # Sums are exact only where no pixel of a tile lies outside, or the kernel leaves it out.
    exact = block_out == (1, 4) or (y.shape[0] % 2 == 0 and y.shape[1] % 2 == 0)
    fuse_sum = node.channel_sum is not None and exact and node.outputs[1] not in graph.outputs
    fuse_sum = fuse_sum and grid(y.shape, block_out)[1] <= 120  # int16 sums of a row
    e = plan_epilogue(node, want_sum=fuse_sum)
    made = depthwise_kernel(conv, plan, block_in, block_out, e, y.shape[1])
    assert made is not None
    label = identifier(node.name)
    count = quads(inner.shape[2])
    rows_in, columns_in = grid(inner.shape, block_in)
    rows_out, columns_out = grid(y.shape, block_out)
    pitch = max((columns_out - 1) * plan.step[1] + plan.span[1], columns_in - plan.origin[1])
    window_rows = (rows_out - 1) * plan.step[0] + plan.span[0]
    kernels = [made.kernel]
    expand_fields: dict[str, object] | None = None
    arrays = {
        "weights": (pack_depthwise(conv), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
        "zeros": (_zero_points(inner), "table"),
    }
    made_constants = list(constants(label, arrays))
    group = 4
    if expand is not None:
        ee = plan_epilogue(expand)
        pointwise = builder.pointwise(quads(x.shape[2]), count, columns_in, "pixel", ee)
        group = -(-group // pointwise.quads) * pointwise.quads
        expand_label = identifier(expand.name)
        kernels.append(pointwise.kernel)
        expand_fields = {
            "label": expand_label,
            "kernel": pointwise.kernel.name,
            "quads": pointwise.quads,
            "depth": pointwise.depth,
            "steps": pointwise.steps,
            "quad_bytes": pointwise.quad_bytes,
            "words": ee.words,
        }
        expand_arrays = {
            "weights": (
                pointwise.pack(expand.conv.weight.reshape(inner.shape[2], -1)),
                "weight",
            ),
            "params": (quad_records(expand, ee), "multiplier"),
            "common": (layer_record(expand), "table"),
        }
        made_constants += constants(expand_label, expand_arrays)
    else:
        kernels.append(template_kernel("transpose"))
    right = inner.shape[1] % block_in[1] or block_in[1]
    bottom = inner.shape[0] % block_in[0] or block_in[0]
    # A right edge leaves out columns of every row of the block; a bottom edge leaves out whole rows.
    right_mask = _edge_mask(right) if block_in[0] == 1 else (0xFFFFFFFF if right == 2 else 0x00FF00FF)
    bottom_mask = 0xFFFFFFFF if bottom == block_in[0] else 0x0000FFFF
    source = builder.need(x.name, block_in)
    target = builder.provide(y.name, block_out)
    writes = [target]
    sums = None
    if fuse_sum:
        sums = builder.provide(node.outputs[1], DENSE)
        writes.append(sums)
    plane = window_rows * pitch * TILE
    window = builder.scratch(f"{label}_window", min(group, count) * plane, align=64)
    scratch = [window]
    if made.vector_bytes:
        scratch.append(builder.scratch(f"{label}_vectors", made.vector_bytes))
    zero_points = arrays["zeros"][0][: inner.shape[2]]
    full = 0xFFFFFFFF
    border: dict[str, object] | None = None
    if any(conv.pad) or right_mask != full or bottom_mask != full:
        border_kernel = _border_kernel(
            -plan.origin[1],
            pitch + plan.origin[1] - columns_in,
            right_mask if right_mask != full else 0,
            bottom_mask if bottom_mask != full else 0,
        )
        kernels.append(border_kernel)
        whole = right_mask == full and bottom_mask == full
        border = {
            "name": border_kernel.name,
            "bottom": bottom_mask != full,
            "once": whole and bool((zero_points == zero_points[0]).all()),
        }
    body = render(
        "kernels/dotprod/block.c.j2",
        x={
            "region": source,
            "rows": rows_in,
            "columns": columns_in,
            "block_bytes": quads(x.shape[2]) * TILE,
            "row_bytes": columns_in * quads(x.shape[2]) * TILE,
        },
        y={
            "region": target,
            "rows": rows_out,
            "block_bytes": count * TILE,
            "row_bytes": columns_out * count * TILE,
        },
        window={
            "region": window.name,
            "rows": window_rows,
            "pitch": pitch,
            "left": -plan.origin[1],
            "plane": plane,
        },
        vectors=scratch[1].name if made.vector_bytes else None,
        sums=sums,
        plan=plan,
        bands=1,
        band_rows=rows_out,
        carry=0,
        quads=count,
        group=group,
        expand=expand_fields,
        border=border,
        depthwise={
            "label": label,
            "kernel": made.kernel.name,
            "quad_bytes": conv.kernel[0] * conv.kernel[1] * 4,
            "words": e.words,
            "steps": made.steps,
        },
    )
    words = set(re.findall(r"\w+", body))
    used = [c for c in made_constants if c.name in words]
    title = f"depthwise {conv.kernel[0]}x{conv.kernel[1]}, {shape_text(inner)} to {shape_text(y)}"
    if expand is not None:
        title = f"1x1 from {shape_text(x)}, {title}"
    builder.add(
        Stage(
            name=label,
            title=title,
            nodes=(expand.name, node.name) if expand else (node.name,),
            reads=(source,),
            writes=tuple(writes),
            body=body,
            scratch=tuple(scratch),
            kernels=tuple(kernels),
            constants=tuple(used),
        )
    )
    if node.channel_sum is not None and not fuse_sum:
        builder.fall_back(node.channel_sum, "sums over an uneven map")
    return True


__all__ = ["Kernel", "as_fused", "can_depthwise", "can_expand", "lower_depthwise"]
