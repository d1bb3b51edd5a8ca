"""Enlargement, gates and what broadcasts: kernels that all paths of 64-bit Arm share, over dense maps."""

from __future__ import annotations

from mnv3c.codegen.program import Stage
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node
from mnv3c.paths.common.broadcasts import Broadcasting, broadcast_stage, can_broadcast
from mnv3c.paths.common.enlarge import Source, argmax_stage, resize_stage
from mnv3c.paths.common.interpolate import fits
from mnv3c.paths.neon.context import Context


def lower_map(context: Context, node: Node) -> Stage | None:
    """One stage for ``node``; ``None`` where it is not such an operator, or not for 64-bit Arm."""
    if not context.dialect.arm64 or not isinstance(node, q.QResize | q.FusedResizeArgMax | Broadcasting):
        return None
    x, y = context.tensor(node.inputs[0]), context.tensor(node.output)
    regions = context.regions
    source = Source("pixels", regions[x.name], regions[y.name], "KERNEL_NEON", "neon")
    if isinstance(node, Broadcasting):
        if not can_broadcast(context.graph, node):
            return None
        places = (regions[x.name], regions[node.inputs[1]], regions[y.name])
        return broadcast_stage(context.graph, node, places, source.qualifier, source.suffix)
    if not fits(node, x, y, source.form):
        return None
    if isinstance(node, q.QResize):
        return resize_stage(node, x, y, source)
    return argmax_stage(node, x, y, source)
