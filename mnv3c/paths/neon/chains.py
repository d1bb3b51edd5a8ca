"""Depth-first fusion: which convolutions run as one stage, and how that is cut for threads.

Expand, depthwise and project follow each other row by row (``bands.py``), or expand and depthwise do in
slices of channels (``slices.py``). The expanded tensor, six times as wide as what goes in and out, then
never exists as a whole. Where tensors between blocks are large, several blocks are one pipeline.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mnv3c.codegen.program import Stage
from mnv3c.ir.graph import Node
from mnv3c.ir.printer import shape_text
from mnv3c.paths.neon.bands import Pipeline, held_residual, lower_bands, pulls, scratch_bytes
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.elementwise import door_of
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.shares import Shares
from mnv3c.paths.neon.slices import lower_slices, slices_of
from mnv3c.paths.neon.steps import Step, step_of
from mnv3c.paths.neon.sums import sum_code, sum_kernel
from mnv3c.schedules import table_of


@dataclass(frozen=True, eq=False)
class Chain:
    """Steps that run as one stage, in bands of rows unless ``sliced``.

    Attributes:
        door: what makes the rows that the first step reads, if that is part of the stage.
    """

    steps: tuple[Step, ...]
    sliced: bool
    door: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        convolutions = tuple(s.node for s in self.steps)
        return convolutions if self.door is None else (self.door, *convolutions)

    @property
    def last(self) -> Step:
        return self.steps[-1]


def find_chains(context: Context) -> dict[str, Chain]:
    """Chains by the name of their last node, where they run; no node is in two of them."""
    chains: list[Chain] = []
    taken: set[str] = set()
    for node in context.graph.nodes:
        middle = step_of(context, node)
        if middle is None or not middle.windowed or middle.node.name in taken:
            continue
        chain = _block(context, middle, taken)
        taken.update(n.name for n in chain.nodes)
        if chains and (merged := _merge(context, chains[-1], chain)) is not None:
            chains[-1] = merged
        else:
            chains.append(chain)
    return {chain.last.node.name: chain for chain in chains}


def _block(context: Context, middle: Step, taken: set[str]) -> Chain:
    """What runs together with a convolution over windows, as far as nobody else reads what is between."""
    if middle.kind != "depthwise":
        door = context.graph.producer(middle.node.inputs[0])
        sole = len(context.graph.consumers(middle.node.inputs[0])) == 1
        if not sole or middle.node.inputs[0] in context.graph.outputs or door_of(context, door) is None:
            door = None
        return Chain((middle,), sliced=False, door=door)
    before = _neighbour(context, context.graph.producer(middle.node.inputs[0]), taken)
    if before is not None and (before.residual is not None or not _inside(context, before)):
        before = None
    after = None
    if _inside(context, middle):
        after = _neighbour(context, context.graph.consumers(middle.node.outputs[0])[0], taken)
        if after is not None and after.node.inputs.count(middle.node.outputs[0]) != 1:
            after = None
        if after is not None and after.node.inputs[0] != middle.node.outputs[0]:
            after = None
    sliceable = before is not None and middle.y.shape[2] % BLOCK == 0 and middle.residual is None
    banded = tuple(s for s in (before, middle, after) if s is not None)
    if before is None or not sliceable:
        return Chain(banded, sliced=False)
    if after is not None:
        rules, memory = table_of("network"), context.options.memory
        efficiency = _band_efficiency(banded, rules.LIMITS[memory].bands)
        own = rules.default_project_neon(efficiency, memory)
        if context.knob(middle.node.name, "project", own) == "inside":
            return Chain(banded, sliced=False)
    return Chain((before, middle), sliced=True)


def _neighbour(context: Context, node: Node | None, taken: set[str]) -> Step | None:
    step = step_of(context, node)
    return step if step is not None and step.kind == "pointwise" and step.node.name not in taken else None


def _inside(context: Context, step: Step) -> bool:
    """Whether one other node is all that reads the result."""
    name = step.node.outputs[0]
    readers = context.graph.consumers(name)
    return len(readers) == 1 and name not in context.graph.outputs and step.node.channel_sum is None


def _band_efficiency(steps: tuple[Step, ...], bands: int) -> float:
    """Of ``bands`` threads' time, what is used where each brings in the rows above its windows itself."""
    rows = steps[-1].y.shape[0]
    if rows < bands:
        return 0.0
    alone = sum(s.row_macs * s.y.shape[0] for s in steps)
    costs = []
    for size in Shares(rows, bands).sizes:
        cost, needed = 0.0, size
        for step in reversed(steps):
            cost += step.row_macs * needed
            if step.windowed:
                g = step.geometry
                needed = min((needed - 1) * g.stride + g.extent, g.height)
        costs.append(cost)
    return alone / (bands * max(costs))


def _merge(context: Context, first: Chain, second: Chain) -> Chain | None:
    """Both as one pipeline, if the tensor between them is large and nothing else reads it."""
    rules, memory = table_of("network"), context.options.memory
    limits = rules.LIMITS[memory]
    x = first.last.node.outputs[0]
    readers = {n.name for n in context.graph.consumers(x)}
    if second.steps[0].node.inputs[0] != x or not readers <= {n.name for n in second.nodes}:
        return None
    if first.sliced or first.last.node.channel_sum is not None or x in context.graph.outputs:
        return None
    t = context.tensor(x)
    if t.bytes < limits.merge or t.dtype != "int8":
        return None
    steps = first.steps + second.steps
    try:
        for i, step in enumerate(steps):
            if step.residual is not None:
                held_residual(steps, i)
    except ValueError:
        return None
    efficiency = _band_efficiency(steps, limits.bands)
    own = rules.default_next_neon(t.bytes, scratch_bytes(context, steps), efficiency, memory)
    middle = next((s for s in reversed(first.steps) if s.windowed), first.last)
    if context.knob(middle.node.name, "next", own) != "inside":
        return None
    return Chain(steps, sliced=False, door=first.door)


def lower_chain(context: Context, chain: Chain) -> tuple[Stage, ...]:
    """The stages of a chain: itself, and channel sums over all of its bands."""
    last = chain.last
    if chain.sliced:
        expand, middle = chain.steps
        slices = slices_of(context, expand, middle)
        return (_stage(context, chain, lower_slices(context, expand, middle, slices), slices.shares),)
    shares = _bands(context, chain)
    pipeline = lower_bands(context, chain.steps, shares, chain.door)
    stage = _stage(context, chain, pipeline, shares)
    if last.node.channel_sum is None:
        return (stage,)
    x, sums = last.node.outputs
    code = sum_code(context, x, sums) + "\n"
    if shares.parts == 1:
        kernels = (*stage.kernels, sum_kernel())
        return (dataclasses.replace(stage, body=stage.body + code, kernels=kernels),)
    return (
        dataclasses.replace(stage, writes=stage.writes[:1]),
        Stage(
            name=f"{stage.name}_sums",
            title=f"channel sums, {shape_text(last.y)}",
            nodes=(last.node.name,),
            reads=(context.regions[x],),
            writes=(context.regions[sums],),
            body=code,
            kernels=(sum_kernel(),),
        ),
    )


def _bands(context: Context, chain: Chain) -> Shares:
    rows = chain.last.y.shape[0]
    most = table_of("network").LIMITS[context.options.memory].bands
    middle = next((s for s in reversed(chain.steps) if s.kind == "depthwise"), None)
    if middle is not None:
        most = context.knob(middle.node.name, "workers", most)
    return Shares(rows, min(most, rows))


def _stage(context: Context, chain: Chain, pipeline: Pipeline, shares: Shares) -> Stage:
    last = chain.last
    inside = {o for n in chain.nodes for o in n.outputs}
    reads = [i for n in chain.nodes for i in n.inputs if i not in inside]
    return Stage(
        name=last.label,
        title=_title(chain),
        nodes=tuple(n.name for n in chain.nodes),
        reads=tuple(dict.fromkeys(context.regions[i] for i in reads)),
        writes=tuple(context.regions[o] for o in last.node.outputs),
        body=pipeline.body + "\n",
        scratch=pipeline.scratch,
        in_place=_in_place(context, chain, shares),
        kernels=pipeline.kernels,
        constants=pipeline.constants,
        parts=shares.parts,
        pulls=not chain.sliced and pulls(context, chain.steps, chain.door),
    )


def _title(chain: Chain) -> str:
    parts = []
    for step in chain.steps:
        kh, kw = step.node.conv.kernel
        if step.kind == "window":
            parts.append(f"convolution {kh}x{kw}")
        elif step.kind == "depthwise":
            parts.append(f"depthwise {kh}x{kw}")
        else:
            parts.append("project" if parts and parts[-1].startswith("depthwise") else "expand")
        if step.residual is not None:
            parts.append("add")
    return f"{', '.join(parts)}, {shape_text(chain.steps[0].x)} to {shape_text(chain.last.y)}"


def _in_place(context: Context, chain: Chain, shares: Shares) -> tuple[tuple[str, str], ...]:
    """A residual operand may become the result, if no row is read after it is written, by any share."""
    last = chain.last
    if last.residual is None or any(last.residual in n.outputs for n in chain.nodes):
        return ()
    x, y = context.tensor(last.residual), last.y
    windows = [s.geometry for s in chain.steps if s.windowed]
    if last.residual in chain.nodes[0].inputs:
        behind = len(windows) == 1 and windows[0].stride == 1 and windows[0].extent > windows[0].top
        if shares.parts > 1 or not behind:
            return ()
    if y.shape[2] % BLOCK or x.shape != y.shape or x.dtype != y.dtype:
        return ()
    if sum(last.residual in n.inputs for n in chain.nodes[1:-1]):
        return ()
    return ((context.regions[last.residual], context.regions[last.node.outputs[0]]),)
