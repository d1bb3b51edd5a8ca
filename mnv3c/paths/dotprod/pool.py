"""Global average pools: what becomes of the channel sums that another stage has taken."""

from __future__ import annotations

from mnv3c.codegen.program import Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.printer import shape_text
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants
from mnv3c.paths.dotprod.epilogue import Epilogue, offset_kind, records, requant_record, short_shifts
from mnv3c.paths.dotprod.layout import quads


def lower_requantize(builder: Builder, node: q.Requantize) -> bool:
    """Sums to means; False if this kernel cannot do it."""
    graph, requant = builder.graph, node.requant
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    if requant.right is not None or x.shape[:2] != (1, 1) or x.name in graph.inputs:
        return False
    if y.name in graph.outputs and y.shape[2] % 4:  # whole quads are written
        return False
    label = identifier(node.name)
    shifts = short_shifts(node.bias, requant.multiplier, requant.offset)
    e = Epilogue(shift=requant.shift, offset=offset_kind(requant.offset), wide=shifts is None)
    name = f"requantize_{e.label}_{y.dtype}_dotprod"
    source = render("kernels/dotprod/requantize.c.j2", name=name, epilogue=e, out=y.dtype)
    offset = requant.offset if e.offset == "channel" else None
    arrays = {
        "params": (records(node.bias, requant.multiplier, offset, None, shifts), "multiplier"),
        "common": (requant_record(requant, shifts), "table"),
    }
    read, write = builder.need(x.name, DENSE), builder.provide(y.name, DENSE)
    builder.add(
        Stage(
            name=label,
            title=f"requantise the pool, {shape_text(y)}",
            nodes=(node.name,),
            reads=(read,),
            writes=(write,),
            body=f"{name}((const int32_t *)(const void *)R_{read}, params_{label}, common_{label},"
            f" R_{write}, {quads(y.shape[2])});",
            kernels=(Kernel(name, source),),
            constants=constants(label, arrays),
        )
    )
    return True
