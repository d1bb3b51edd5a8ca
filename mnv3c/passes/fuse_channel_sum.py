from __future__ import annotations

import dataclasses

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node


def fuse_channel_sum(graph: Graph) -> Graph:
    """Let a convolution that feeds a global pool sum its channels as it writes them.

    Before::

        y: int8 = FusedConv(x){...}        (or QConv)
        s: int32 = ChannelSum(y)

    After::

        y: int8, s: int32 = FusedConv(x){..., ChannelSum}
    """
    sums = {n.inputs[0]: n for n in graph.nodes if isinstance(n, q.ChannelSum)}
    absorbed: set[str] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        total = sums.get(node.output)
        if total is not None and isinstance(node, q.QConv):
            node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
        if total is not None and isinstance(node, q.FusedConv):
            absorbed.add(total.name)
            node = dataclasses.replace(node, outputs=(*node.outputs, total.output), channel_sum=total)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))
