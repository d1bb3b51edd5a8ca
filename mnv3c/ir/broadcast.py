"""Broadcasting as NumPy has it: an axis of length one stands for any length.

Sums and products read such an operand again and again; the arithmetic is that of equal shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnv3c.ir.graph import Graph, Node, Shape


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The shape of a sum or product of two tensors; ``None`` where the shapes do not fit."""
    if any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        return None
    height, width, channels = (max(m, n) for m, n in zip(a, b, strict=True))
    return height, width, channels


def shortest(values: np.ndarray, other: Sequence[int]) -> np.ndarray:
    """A constant with length one along axes on which it is the same everywhere, and broadcasts to ``other``.

    Args:
        other: the other operand's shape, of as many axes.
    """
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if other[axis] == values.shape[axis] and bool((values == first).all()):
            values = first
    return values


def repeats(graph: Graph, node: Node) -> bool:
    """Whether an operand of a sum or product is smaller than the result: it is read again and again."""
    shape = graph.tensor(node.output).shape
    return any(graph.tensor(name).shape != shape for name in node.inputs)
