"""Operators of mixed networks, which vector kernels know in 8 bits only (numerics.md, "16-bit tensors")."""

from __future__ import annotations

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node

REASON = "16-bit tensor"


def in_16_bits(graph: Graph, node: Node) -> bool:
    """Whether ``node`` reads or writes 16 bits where only a mixed network does; for portable kernels."""

    def wide(name: str) -> bool:
        return graph.tensor(name).dtype == "int16"

    if isinstance(node, q.QConv):
        return wide(node.inputs[0])
    if isinstance(node, q.FusedConv):
        if wide(node.inputs[0]):
            return True
        add = node.residual
        if add is not None:
            return wide(add.output) or _scaled(graph, add)
        swish = isinstance(node.activation, q.QHardSwish)
        return wide(node.outputs[0]) and (swish or node.channel_sum is not None)
    if isinstance(node, q.QAdd):
        return wide(node.output) or _scaled(graph, node)
    if isinstance(node, q.QGate | q.QHardSwish):
        return wide(node.output)
    return isinstance(node, q.ChannelSum) and wide(node.inputs[0])


def _scaled(graph: Graph, add: q.QAdd) -> bool:
    """Whether an operand in 16 bits has to be brought to the sum's units; one inside a fused node has not."""
    tensors = (graph.tensors.get(name) for name in add.inputs)
    return any(
        t is not None and t.dtype == "int16" and m != 0 for t, m in zip(tensors, add.multipliers, strict=True)
    )
