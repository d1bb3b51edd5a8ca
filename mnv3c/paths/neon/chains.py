"""Depth-first fusion: expand, depthwise and project run row by row, with the wide rows in a ring.

The expanded tensor, six times as wide as what goes in and out, then never exists as a whole: a ring
holds the rows that one window needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node, Tensor
from mnv3c.paths.neon.depthwise import lower_depthwise
from mnv3c.paths.neon.epilogue import Epilogue, epilogue_of
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.pointwise import Pointwise, lower_pointwise
from mnv3c.paths.neon.stages import Context, as_fused, finish, shape_text
from mnv3c.paths.neon.windows import SLACK, Geometry, Padding, Ring, copy_rows, geometry_of, make_ring

# Weights beyond this size come from the second-level cache each time they are used, so more rows are
# expanded at a time, as far as the ring stays below the second figure.
RESIDENT_BYTES = 24 * 1024
RING_BYTES = 64 * 1024


@dataclass(frozen=True, eq=False)
class Chain:
    """Nodes that run as one stage; ``expand`` or ``project`` may be missing, not both."""

    expand: q.FusedConv | None
    depthwise: q.FusedConv
    project: q.FusedConv | None

    @property
    def nodes(self) -> tuple[q.FusedConv, ...]:
        return tuple(n for n in (self.expand, self.depthwise, self.project) if n is not None)


def match_chain(context: Context, node: Node) -> Chain | None:
    """The chain around a depthwise convolution whose neighbours nobody else reads."""
    graph = context.graph
    middle = as_fused(node)
    if middle is None or not _is_depthwise(context, middle):
        return None
    before = as_fused(graph.producer(middle.inputs[0]))
    expand = before if before is not None and _may_expand(context, before) else None
    users = graph.consumers(middle.outputs[0])
    project = as_fused(users[0]) if len(users) == 1 and middle.outputs[0] not in graph.outputs else None
    if project is not None and (len(middle.outputs) > 1 or not _may_project(context, middle, project)):
        project = None
    return Chain(expand, middle, project) if expand or project else None


def find_chains(context: Context) -> dict[str, Chain]:
    """Chains by the name of their last node, where they run; no node is in two of them."""
    chains: dict[str, Chain] = {}
    taken: set[str] = set()
    for node in context.graph.nodes:
        chain = match_chain(context, node)
        if chain is not None and taken.isdisjoint(n.name for n in chain.nodes):
            chains[chain.nodes[-1].name] = chain
            taken.update(n.name for n in chain.nodes)
    return chains


def _plain(context: Context, node: q.FusedConv) -> Epilogue | None:
    """The epilogue if all it does is make int8."""
    e = epilogue_of(context.graph, node)
    return e if e is not None and e.kind in ("int8", "swish") else None


def _is_depthwise(context: Context, node: q.FusedConv) -> bool:
    channels = node.conv.weight.shape[0]
    if not node.conv.depthwise or channels < BLOCK or (node.channel_sum is not None and channels % BLOCK):
        return False
    return _plain(context, node) is not None


def _may_expand(context: Context, node: q.FusedConv) -> bool:
    sole = len(context.graph.consumers(node.outputs[0])) == 1 and node.outputs[0] not in context.graph.outputs
    if not sole or len(node.outputs) > 1 or not context.in_arena(node.inputs[0]):
        return False
    conv = node.conv
    return conv.pointwise and conv.weight.shape[0] >= BLOCK and _plain(context, node) is not None


def _may_project(context: Context, middle: q.FusedConv, node: q.FusedConv) -> bool:
    conv = node.conv
    if not conv.pointwise or conv.weight.shape[0] < BLOCK or node.inputs[0] != middle.outputs[0]:
        return False
    if node.channel_sum is not None and conv.weight.shape[0] % BLOCK:
        return False
    # A table is looked up in a pass of its own, which the fused stage does not make.
    return epilogue_of(context.graph, node) is not None and node.inputs.count(middle.outputs[0]) == 1


def lower_chain(context: Context, chain: Chain) -> Stage:
    """One stage for the whole chain."""
    middle = chain.depthwise
    label = identifier(chain.nodes[-1].name)
    x, y = context.tensor(middle.inputs[0]), context.tensor(middle.outputs[0])
    e = epilogue_of(context.graph, middle)
    assert e is not None
    geometry = geometry_of(middle.conv, x, y.shape[0], y.shape[1], _batch(chain, x.shape))
    expand = _lower_expand(context, chain.expand, geometry, label) if chain.expand is not None else None
    ring = make_ring(label, geometry, x, _padding(expand, chain.expand, x))
    row = lower_depthwise(f"{label}_depthwise", middle.conv, e, y.shape[1])
    context.remember_offsets(middle.outputs[0], row.constant, e)
    kernels, constants, scratch = (
        [*ring.kernels, *row.kernels],
        [row.constant, *ring.constants],
        [ring.region],
    )
    if chain.expand is None or expand is None:
        produce = copy_rows(ring, context.pointer(middle.inputs[0]))
    else:
        produce = _expand_rows(context, chain.expand, expand, ring)
        kernels += expand.kernels
        constants.append(expand.constant)
    out_row = y.shape[1] * y.shape[2]
    if chain.project is None:
        consume = row.code(f"({context.pointer(middle.outputs[0], const=False)}) + y * {out_row}")
    else:
        buffer = Region(f"{label}_row", out_row + SLACK)
        scratch.append(buffer)
        z = context.tensor(chain.project.outputs[0])
        last = epilogue_of(context.graph, chain.project)
        assert last is not None
        weight = chain.project.conv.weight.reshape(z.shape[2], y.shape[2])
        project = lower_pointwise(f"{label}_project", weight, last, y.shape[1])
        kernels += project.kernels
        constants.append(project.constant)
        at = f"y * {z.shape[1] * z.shape[2]}"
        residual = chain.project.residual is not None
        consume = row.code(f"(int8_t *)R_{buffer.name}") + "\n"
        consume += project.call(
            f"(const int8_t *)R_{buffer.name}",
            y.shape[2],
            f"({context.pointer(chain.project.outputs[0], const=False)}) + {at}",
            z.shape[2],
            y.shape[1],
            f"({context.pointer(chain.project.inputs[1])}) + {at}" if residual else "",
        )
    body = ring.body(produce, consume)
    return _as_stage(context, chain, body, kernels, constants, scratch)


def _batch(chain: Chain, shape: tuple[int, int, int]) -> int:
    if chain.expand is None or chain.expand.conv.weight.size <= RESIDENT_BYTES:
        return 1
    pad = chain.depthwise.conv.pad
    row = (shape[1] + pad[1] + pad[3]) * shape[2]
    return max(1, min(shape[0], RING_BYTES // row - chain.depthwise.conv.kernel[0]))


def _lower_expand(context: Context, node: q.FusedConv, g: Geometry, label: str) -> Pointwise:
    e = epilogue_of(context.graph, node)
    assert e is not None
    weight = node.conv.weight.reshape(g.channels, -1)
    return lower_pointwise(f"{label}_expand", weight, e, g.width)


def _padding(expand: Pointwise | None, node: q.FusedConv | None, x: Tensor) -> Padding | None:
    """The zero points of the expanded tensor among the constants of what expands, if they are there."""
    if expand is None or node is None or not isinstance(node.activation, q.QHardSwish) or x.quant is None:
        return None
    points = np.broadcast_to(np.asarray(x.quant.zero_point), x.shape[2:])
    offset = np.broadcast_to(node.activation.offset, x.shape[2:])
    if x.shape[2] % BLOCK or not offset.any() or not np.array_equal(points, offset):
        return None
    # Zero points are 8 bits, the last parameter of a block.
    return Padding(f"{expand.constant.name} + {expand.block_bytes - BLOCK}", expand.block_bytes)


def _expand_rows(context: Context, node: q.FusedConv, kernel: Pointwise, ring: Ring) -> str:
    x, g = context.tensor(node.inputs[0]), ring.geometry
    return kernel.call(
        f"({context.pointer(node.inputs[0])}) + row * {g.width * x.shape[2]}",
        x.shape[2],
        ring.row("row"),
        g.channels,
        g.width,
        around="for (int32_t row = next; row < stop; ++row)",
    )


def _title(context: Context, chain: Chain) -> str:
    first, last = chain.nodes[0], chain.nodes[-1]
    kh, kw = chain.depthwise.conv.kernel
    parts = [
        "expand" if chain.expand else "",
        f"depthwise {kh}x{kw}",
        "project" if chain.project else "",
        "add" if chain.project is not None and chain.project.residual is not None else "",
    ]
    x, y = context.tensor(first.inputs[0]), context.tensor(last.outputs[0])
    return f"{', '.join(p for p in parts if p)}, {shape_text(x)} to {shape_text(y)}"


def _in_place(context: Context, chain: Chain) -> tuple[tuple[str, str], ...]:
    """A residual operand may become the result: row y is written when no row up to y is read again."""
    last = chain.nodes[-1]
    if last.residual is None:
        return ()
    x, y = context.tensor(last.inputs[1]), context.tensor(last.outputs[0])
    conv = chain.depthwise.conv
    behind = conv.stride[0] == 1 and (conv.kernel[0] - 1) * conv.dilation[0] >= conv.pad[0]
    if last.inputs[1] == chain.nodes[0].inputs[0] and not behind:
        return ()
    if y.shape[2] % BLOCK or x.shape != y.shape or x.dtype != y.dtype:
        return ()
    return ((context.regions[last.inputs[1]], context.regions[last.outputs[0]]),)


def _as_stage(
    context: Context,
    chain: Chain,
    body: str,
    kernels: list[Kernel],
    constants: list[Constant],
    scratch: list[Region],
) -> Stage:
    return finish(
        context,
        chain.nodes,
        _title(context, chain),
        body,
        kernels,
        constants,
        scratch,
        None,
        _in_place(context, chain),
    )
