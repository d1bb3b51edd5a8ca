from __future__ import annotations

from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import repeats
from mnv3c.ir.graph import Graph, Node


def fuse_residual(graph: Graph) -> Graph:
    """Join a projection with the residual add that is the only reader of its int16 output.

    Before::

        t: int16 = QConv(x)
        y: int8 = QAdd(t, shortcut)

    After::

        y: int8 = FusedConv(x, shortcut){QConv, QAdd}
    """
    projections: dict[str, q.QConv] = {}  # by the name of the add that absorbs them
    for node in graph.nodes:
        if isinstance(node, q.QConv) and graph.tensor(node.output).dtype == "int16":
            add = graph.sole_consumer(node.output, q.QAdd)
            # A kernel that adds while it writes has both operands' elements at one place.
            if add is not None and repeats(graph, add):
                continue
            # A stored tensor of 16 bits has a multiplier: it is not in the sum's units.
            if add is not None and add.multipliers[add.inputs.index(node.output)]:
                continue
            # An add of two convolutions takes the later one, whose partner is then already computed.
            if add is not None:
                projections[add.name] = node
    absorbed = {conv.name for conv in projections.values()}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        if isinstance(node, q.QAdd) and node.name in projections:
            conv = projections[node.name]
            shortcut = next(i for i in node.inputs if i != conv.output)
            node = q.FusedConv(conv.name, (conv.inputs[0], shortcut), node.outputs, conv=conv, residual=node)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))
