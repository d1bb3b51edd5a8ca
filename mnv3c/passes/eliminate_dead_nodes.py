from __future__ import annotations

from mnv3c.ir.graph import Graph, Node


def eliminate_dead_nodes(graph: Graph) -> Graph:
    """Drop nodes from which no output of the graph can be reached.

    Before::

        a = QConv(x); b = QConv(x); return a

    After::

        a = QConv(x); return a
    """
    live = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs):
            kept.append(node)
            live.update(node.inputs)
    return graph.replace(nodes=tuple(reversed(kept)))
