"""Enlargement, alone or of which only the greatest class is wanted: over tiles where there are some."""

from __future__ import annotations

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node
from mnv3c.paths.common.enlarge import Source, argmax_stage, resize_stage
from mnv3c.paths.common.interpolate import fits
from mnv3c.paths.dotprod.builder import DENSE, Builder
from mnv3c.paths.dotprod.layout import ROW


def lower_resize(builder: Builder, node: Node) -> bool:
    """A bilinear resize; False if it is none, or one that the vector kernels cannot do."""
    if not isinstance(node, q.QResize | q.FusedResizeArgMax):
        return False
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.output)
    tiled = x.dtype == "int8" and builder.tiled(x.name)
    form = "tiles" if tiled else "pixels"
    if not fits(node, x, y, form):
        return False
    place = ROW if tiled else DENSE
    alone = isinstance(node, q.QResize)
    source = Source(
        form,
        builder.need(x.name, place),
        builder.provide(y.name, place if alone else DENSE),
        "static MNV3C_NOINLINE",
        "dotprod",
    )
    make = resize_stage if alone else argmax_stage
    builder.add(make(node, x, y, source, builder.window_shares))  # type: ignore[arg-type]
    return True
