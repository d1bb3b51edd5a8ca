"""The ``neon`` path: ARMv8.0 NEON without dot products (Cortex-A53, A57, A72, A73).

Tensors are dense ``[H][W][C]``. 1x1 convolutions reduce over the channels of a pixel, 16 to a vector
(``tile.py``); depthwise ones keep 8 channels in the lanes (``depthwise.py``).
"""

from __future__ import annotations

from dataclasses import replace

from mnv3c.codegen.program import Options, Program, Stage
from mnv3c.codegen.render import render
from mnv3c.ir.graph import Graph
from mnv3c.paths.common.regions import region_names
from mnv3c.paths.neon.chains import find_chains, lower_chain
from mnv3c.paths.neon.context import Context, regions_of
from mnv3c.paths.neon.dialect import ARM64, Dialect
from mnv3c.paths.neon.stages import lower_node

name = "neon"


def _with_schedule(context: Context, stage: Stage) -> Stage:
    """Note the knobs that were asked for; empty for stages that have none."""
    return replace(stage, schedule={n: dict(context.used[n]) for n in stage.nodes if n in context.used})


def lower(graph: Graph, options: Options, dialect: Dialect = ARM64) -> Program:
    """Lower the fused integer graph; shapes without a vector kernel take the portable one and a note."""
    context = Context(graph, region_names(graph), options, dialect)
    stages: list[Stage] = []
    notes: list[str] = []
    chains = find_chains(context)
    inside = {n.name for chain in chains.values() for n in chain.nodes}
    for node in graph.nodes:
        if node.name in chains:
            first, *others = lower_chain(context, chains[node.name])
            stages += [_with_schedule(context, first), *others]
            continue
        if node.name in inside:
            continue
        lowered = lower_node(context, node)
        stages += [_with_schedule(context, s) for s in lowered.stages]
        notes += lowered.notes
    return Program(
        path=name,
        stages=tuple(stages),
        regions=regions_of(context),
        includes=("arm_neon.h", "stddef.h"),
        prologue=render("kernels/neon/prologue.c.j2"),
        notes=tuple(notes),
    )
