"""Walks the graph and picks a stage for every operator."""

from __future__ import annotations

from dataclasses import replace

from mnv3c.codegen.program import Options, Program
from mnv3c.codegen.render import render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from mnv3c.paths.common.wide import REASON, in_16_bits
from mnv3c.paths.dotprod.block import (
    as_fused,
    can_depthwise,
    can_expand,
    link_waits,
    lower_depthwise,
    projection_of,
    stem_waits,
)
from mnv3c.paths.dotprod.builder import Builder, Instructions
from mnv3c.paths.dotprod.elementwise import (
    lower_broadcast,
    lower_elementwise,
    lower_sum,
    separate_tables,
)
from mnv3c.paths.dotprod.links import Members
from mnv3c.paths.dotprod.loads import SINGLE_LOADS
from mnv3c.paths.dotprod.logits import lower_logits
from mnv3c.paths.dotprod.pool import lower_requantize
from mnv3c.paths.dotprod.resize import lower_resize
from mnv3c.paths.dotprod.stages import lower_dense, lower_gate, lower_pointwise, lower_vector
from mnv3c.paths.dotprod.stem import can_stem, lower_stem


def lower_graph(graph: Graph, options: Options, instructions: Instructions) -> Program:
    """Stages in the order of the nodes; what exists only inside a stage waits for that stage's last node."""
    graph = separate_tables(graph)
    builder = Builder(graph, instructions, options.schedules, options.memory, options.camera)
    waiting: dict[str, q.FusedConv] = {}
    stems: dict[str, q.FusedConv] = {}
    links: dict[str, Members] = {}
    flips: dict[str, q.FlipSign] = {}
    done: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, q.FlipSign) and _flips_for_stem(builder, node):
            flips[node.output] = node
            continue
        if in_16_bits(graph, node):
            builder.fall_back(node, REASON)
            continue
        conv = as_fused(node)
        if node.name in done:
            continue
        if conv is not None:
            if can_expand(builder, conv):
                waiting[conv.outputs[0]] = conv
            elif stem_waits(builder, conv):
                stems[conv.outputs[0]] = conv
            elif can_depthwise(builder, conv):
                stem, expand = (w.pop(conv.inputs[0], None) for w in (stems, waiting))
                project = projection_of(builder, conv, inner=stem.outputs[0] if stem else None)
                done |= {project.name} if project else set()
                flip = flips.pop(stem.inputs[0], None) if stem else None
                before = links.pop(expand.inputs[0], None) if expand else None
                link = Members(conv, expand, project, stem, flip, before)
                if link_waits(builder, link):
                    links[link.result] = link
                else:
                    lower_depthwise(builder, link)
            else:
                _lower_conv(builder, conv, flips)
        elif not _lower_other(builder, node):
            builder.fall_back(node)
    prologue = render(
        "kernels/dotprod/prologue.c.j2",
        clang_target=instructions.clang_target,
        single_loads=builder.mentions(SINGLE_LOADS),
        gathers=builder.mentions("gather_call"),
    )
    return builder.program(
        includes=("arm_neon.h", "stddef.h"),
        gcc_target=instructions.gcc_target,
        clang_target=instructions.clang_target,
        prologue=prologue,
    )


def _flips_for_stem(builder: Builder, node: q.FlipSign) -> bool:
    """Whether the only reader of ``node`` is a convolution that flips while it reads."""
    graph = builder.graph
    if graph.tensor(node.output).dtype != "int8":
        return False
    reader = graph.sole_consumer(node.output, q.FusedConv) or graph.sole_consumer(node.output, q.QConv)
    conv = as_fused(reader)
    return conv is not None and not can_depthwise(builder, conv) and can_stem(builder, conv)


def _lower_other(builder: Builder, node: Node) -> bool:
    if isinstance(node, q.QGate):
        return lower_gate(builder, node) or lower_broadcast(builder, node)
    if isinstance(node, q.Requantize):
        return lower_requantize(builder, node)
    if lower_resize(builder, node) or lower_elementwise(builder, node):
        return True
    return lower_broadcast(builder, node)


def _lower_conv(
    builder: Builder,
    conv: q.FusedConv,
    flips: dict[str, q.FlipSign],
) -> None:
    x = conv.inputs[0]
    if can_stem(builder, conv) and lower_stem(builder, conv, flips.pop(x, None)):
        return
    for rule in (lower_vector, lower_pointwise, lower_logits, lower_dense):
        if rule(builder, conv):
            return
    if conv.channel_sum is not None:
        _lower_conv(builder, replace(conv, outputs=conv.outputs[:1], channel_sum=None), flips)
        if not lower_sum(builder, conv.channel_sum):
            builder.fall_back(conv.channel_sum)
        return
    builder.fall_back(conv, "no fast kernel for this convolution")
