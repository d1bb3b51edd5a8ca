from __future__ import annotations

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node


def fuse_resize_argmax(graph: Graph) -> Graph:
    """Join a bilinear resize with the argmax that is the only reader of its output.

    Before::

        s: int16 = QResize(x)
        y: uint8 = QArgMax(s)

    After::

        y: uint8 = FusedResizeArgMax(x){QResize, QArgMax}
    """
    nodes: list[Node] = []
    absorbed: set[str] = set()
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        if isinstance(node, q.QResize) and node.kind == "bilinear":
            argmax = graph.sole_consumer(node.output, q.QArgMax)
            if argmax is not None:
                absorbed.add(argmax.name)
                node = q.FusedResizeArgMax(argmax.name, node.inputs, argmax.outputs, node, argmax)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))
