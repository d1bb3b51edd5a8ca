"""The ``i8mm`` path: ARMv8.6 with 8-bit matrix products (SMMLA) besides dot products.

Layout and stages are those of the ``dotprod`` path; 1x1 convolutions, the head and the first convolution
multiply matrices, depthwise convolutions and vectors keep SDOT: SMMLA does no more for them.
"""

from __future__ import annotations

from mnv3c.codegen.program import Options, Program
from mnv3c.ir.graph import Graph
from mnv3c.paths.dotprod.builder import Instructions
from mnv3c.paths.dotprod.lower import lower_graph
from mnv3c.paths.i8mm.pointwise import matrix_kernel, octets_kernel

name = "i8mm"
_TARGET = "arch=armv8.2-a+dotprod+i8mm"
# Clang schedules for the one kind of core or the other; the code is the same.
_OUT_OF_ORDER = Instructions(name, _TARGET, f"{_TARGET},tune=neoverse-n2", matrix_kernel, octets_kernel)
_IN_ORDER = Instructions(name, _TARGET, f"{_TARGET},tune=cortex-a510", matrix_kernel, octets_kernel)
_IN_ORDER_CORES = ("cortex-a510", "cortex-a520")


def lower(graph: Graph, options: Options) -> Program:
    """Lower a fused integer graph; any operator without a kernel here falls back to portable C."""
    chosen = _IN_ORDER if options.tuning in _IN_ORDER_CORES else _OUT_OF_ORDER
    return lower_graph(graph, options, chosen)
