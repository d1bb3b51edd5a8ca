"""The ``ref`` path: portable C11 on dense ``[H][W][C]`` tensors, one stage an operator.

It runs anywhere a C compiler does and is what the other paths are compared with. It is also the
shortest complete example of a path.
"""

from __future__ import annotations

from mnv3c.codegen.program import Options, Program, Region, Stage
from mnv3c.ir.graph import Graph
from mnv3c.paths.common.regions import external, region_names
from mnv3c.paths.ref.stages import lower_node

name = "ref"


def lower(graph: Graph, options: Options) -> Program:
    """Lower every node to one stage (two where a convolution also sums its channels)."""
    regions = region_names(graph)
    stages: list[Stage] = []
    for node in graph.nodes:
        stages += lower_node(graph, node, regions)
    return Program(
        path=name,
        stages=tuple(stages),
        regions=tuple(
            Region(regions[t.name], t.bytes, align=4, external=external(graph, t.name))
            for t in graph.tensors.values()
        ),
    )
