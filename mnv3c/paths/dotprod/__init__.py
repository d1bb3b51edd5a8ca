"""The ``dotprod`` path: ARMv8.2 with dot products, tiles of 4 pixels by 4 channels.

A 1x1 convolution that expands gives tiles with the pixels of a channel side by side, which is what a
depthwise convolution reduces over; that one gives tiles with the channels of a pixel side by side,
which is what the next 1x1 convolution reduces over. So an inverted residual needs no shuffle at all.
"""

from __future__ import annotations

from mnv3c.codegen.program import Options, Program
from mnv3c.ir.graph import Graph
from mnv3c.paths.dotprod.builder import Instructions
from mnv3c.paths.dotprod.lower import lower_graph
from mnv3c.paths.dotprod.pointwise import pointwise_kernel

name = "dotprod"
_INSTRUCTIONS = Instructions(
    name, "arch=armv8.2-a+dotprod", "arch=armv8.2-a+dotprod,tune=neoverse-n2", pointwise_kernel
)


def lower(graph: Graph, options: Options) -> Program:
    """Lower a fused integer graph; any operator without a kernel here falls back to portable C."""
    return lower_graph(graph, options, _INSTRUCTIONS)
