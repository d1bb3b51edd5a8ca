"""Broadcasting as NumPy has it: an axis of length one stands for any length.

Sums and products read such an operand again and again; the arithmetic is that of equal shapes.
"""

from __future__ import annotations

from mnv3c.ir.graph import Graph, Node, Shape


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The shape of a sum or product of two tensors; ``None`` where the shapes do not fit."""
    if any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        return None
    height, width, channels = (max(m, n) for m, n in zip(a, b, strict=True))
    return height, width, channels


def repeats(graph: Graph, node: Node) -> bool:
    """Whether an operand of a sum or product is smaller than the result: it is read again and again."""
    shape = graph.tensor(node.output).shape
    return any(graph.tensor(name).shape != shape for name in node.inputs)
