"""The ``dotprod`` path: ARMv8.2 with dot products, tiles of 4 pixels by 4 channels.

A 1x1 convolution that expands gives tiles with the pixels of a channel side by side, which is what a
depthwise convolution reduces over; that one gives tiles with the channels of a pixel side by side,
which is what the next 1x1 convolution reduces over. So an inverted residual needs no shuffle at all.
"""

from __future__ import annotations

import functools

from mnv3c.codegen.program import Options, Program
from mnv3c.ir.graph import Graph
from mnv3c.paths.dotprod.builder import Instructions
from mnv3c.paths.dotprod.lower import lower_graph
from mnv3c.paths.dotprod.pointwise import pointwise_kernel

name = "dotprod"
_TARGET = "arch=armv8.2-a+dotprod"
# Out-of-order cores want few instructions; with its model of the N2 clang spills the fewest registers.
_OUT_OF_ORDER = Instructions(name, _TARGET, f"{_TARGET},tune=neoverse-n2", pointwise_kernel)
# In-order cores want loads apart from each other, among arithmetic.
_IN_ORDER = Instructions(
    name, _TARGET, f"{_TARGET},tune=cortex-a55", functools.partial(pointwise_kernel, in_order=True)
)
_IN_ORDER_CORES = ("cortex-a53", "cortex-a55", "cortex-a510", "cortex-a520")


def lower(graph: Graph, options: Options) -> Program:
    """Lower a fused integer graph; any operator without a kernel here falls back to portable C."""
    chosen = _IN_ORDER if options.tuning in _IN_ORDER_CORES else _OUT_OF_ORDER
    return lower_graph(graph, options, chosen)
