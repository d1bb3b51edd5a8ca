from __future__ import annotations

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node


def fuse_activation(graph: Graph) -> Graph:
    """Join a convolution with the activation that is the only reader of its output.

    Before::

        t: int16 = QConv(x)
        y: int8 = QHardSwish(t)

    After::

        y: int8 = FusedConv(x){QConv, QHardSwish}
    """
    nodes: list[Node] = []
    absorbed: set[str] = set()
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        if isinstance(node, q.QConv):
            users = graph.consumers(node.output)
            last = users[0] if len(users) == 1 and node.output not in graph.outputs else None
            if isinstance(last, (q.QHardSwish, q.QHardSigmoid, q.QLut)):
                absorbed.add(last.name)
                node = q.FusedConv(node.name, node.inputs, last.outputs, conv=node, activation=last)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))
