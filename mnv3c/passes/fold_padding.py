from __future__ import annotations

import dataclasses

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node


def fold_padding(graph: Graph) -> Graph:
    """Let a convolution pad by itself: its own padding reads the zero point too.

    Before::

        p: int8 = QSpread(x){stride 1, pad a}
        y: int8 = QConv(p){pad b}

    After::

        y: int8 = QConv(x){pad a + b}
    """
    folded: dict[str, q.QSpread] = {}  # by the name of the convolution that takes it
    for node in graph.nodes:
        if isinstance(node, q.QSpread) and node.stride == (1, 1):
            conv = graph.sole_consumer(node.output, q.QConv)
            if conv is not None:
                folded[conv.name] = node
    gone = {spread.name for spread in folded.values()}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in gone:
            continue
        if isinstance(node, q.QConv) and node.name in folded:
            spread = folded[node.name]
            top, left, bottom, right = (a + b for a, b in zip(node.pad, spread.pad, strict=True))
            node = dataclasses.replace(node, inputs=spread.inputs, pad=(top, left, bottom, right))
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))
