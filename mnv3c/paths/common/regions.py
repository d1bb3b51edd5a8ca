"""Names of memory regions for the tensors of a graph."""

from __future__ import annotations

from mnv3c.codegen.render import identifier
from mnv3c.ir.graph import Graph


def region_names(graph: Graph) -> dict[str, str]:
    """Tensor name to a C identifier, unique in the graph (two names may differ by a dot alone)."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for tensor in graph.tensors:
        base = identifier(tensor)
        name, n = base, 1
        while name in taken:
            n += 1
            name = f"{base}_{n}"
        taken.add(name)
        names[tensor] = name
    return names


def external(graph: Graph, tensor: str) -> tuple[str, int] | None:
    """``("input", i)`` or ``("output", i)`` where the tensor is the caller's buffer."""
    if tensor in graph.inputs:
        return ("input", graph.inputs.index(tensor))
    if tensor in graph.outputs:
        return ("output", graph.outputs.index(tensor))
    return None
