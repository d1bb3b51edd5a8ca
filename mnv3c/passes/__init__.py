"""Passes over the integer graph: pure functions from graph to graph, one a file.

``PIPELINE`` is the order. No pass changes a bit of any output (``docs/numerics.md``, "Fusion").
"""

from __future__ import annotations

from collections.abc import Callable

from mnv3c.ir.graph import Graph
from mnv3c.passes.eliminate_dead_nodes import eliminate_dead_nodes
from mnv3c.passes.fold_padding import fold_padding
from mnv3c.passes.fuse_activation import fuse_activation
from mnv3c.passes.fuse_channel_sum import fuse_channel_sum
from mnv3c.passes.fuse_residual import fuse_residual
from mnv3c.passes.fuse_resize_argmax import fuse_resize_argmax

PIPELINE: tuple[Callable[[Graph], Graph], ...] = (
    eliminate_dead_nodes,
    fold_padding,
    fuse_activation,
    fuse_residual,
    fuse_channel_sum,
    fuse_resize_argmax,
)


def run_passes(graph: Graph, observe: Callable[[str, Graph], None] | None = None) -> Graph:
    """Apply ``PIPELINE``; ``observe(pass_name, graph)`` sees the graph after each pass."""
    for step in PIPELINE:
        graph = step(graph)
        if observe is not None:
            observe(step.__name__, graph)
    return graph
