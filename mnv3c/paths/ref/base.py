"""What every stage of portable C is made with: one template, rendered for one node."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir.graph import DTYPE_BYTES, Graph, Node, Tensor

CTYPE = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}
Regions = Mapping[str, str]


def make_stage(
    graph: Graph,
    node: Node,
    regions: Regions,
    template: str,
    *,
    title: str,
    constants: Mapping[str, tuple[np.ndarray, str]] | None = None,
    parts: int = 1,
    in_place: int | None = None,
    outputs: int = 1,
    owner: str | None = None,
    scratch: int = 0,
    **values: object,
) -> Stage:
    """Render ``templates/kernels/ref/<template>`` and wrap it.

    Args:
        in_place: the number of an input that the output may overwrite.
        scratch: bytes that each share needs for itself, a multiple of 4.
    """
    label = identifier(node.name)
    reads = tuple(regions[i] for i in node.inputs)
    writes = tuple(regions[o] for o in node.outputs[:outputs])
    prefix = {key: f"{key}_{label}" for key in constants or {}}
    body = render(
        f"kernels/ref/{template}",
        node=node,
        x=graph.tensor(node.inputs[0]) if node.inputs else None,
        y=graph.tensor(node.outputs[0]),
        inputs=[(f"R_{regions[i]}", CTYPE[graph.tensor(i).dtype], graph.tensor(i)) for i in node.inputs],
        out=f"R_{writes[0]}",
        out_type=CTYPE[graph.tensor(node.outputs[0]).dtype],
        parts=parts,
        names=prefix,
        scratch=f"R_{label}_scratch",
        **values,
    )
    same_size = in_place is not None and element(graph, node.inputs[in_place]) == element(
        graph, node.outputs[0]
    )
    return Stage(
        name=label if outputs else f"{label}_sum",
        title=title,
        nodes=(owner or node.name,),
        reads=reads,
        writes=writes,
        scratch=(Region(f"{label}_scratch", scratch * parts),) if scratch else (),
        body=body,
        # Elements of one size only: else a share would write where another one still has to read.
        in_place=((reads[in_place], writes[0]),) if in_place is not None and same_size else (),
        kernels=_kernels(body),
        constants=tuple(Constant(prefix[k], data, role) for k, (data, role) in (constants or {}).items()),
        parts=parts,
    )


# Each helper and the helpers that it calls itself, callee first.
_HELPERS = {
    "ref_clamp": (),
    "ref_compete": (),
    "ref_divide": (),
    "ref_overlap": (),
    "ref_scale16": (),
    "ref_sort_down": (),
    "ref_divide_away": (),
    "ref_rdmulh32": (),
    "ref_rdmulh16": (),
    "ref_requantize": ("ref_clamp", "ref_rdmulh32"),
    "ref_requantize_twice": ("ref_rdmulh32",),
    "ref_requantize_away": ("ref_rdmulh32",),
    "ref_hard_swish": ("ref_clamp", "ref_rdmulh16"),
    "ref_hard_swish16": ("ref_clamp", "ref_rdmulh16"),
    "ref_quantize": ("ref_clamp",),
}


def _kernels(body: str) -> tuple[Kernel, ...]:
    """The helper functions that ``body`` calls, those they need first."""
    needed: dict[str, None] = {}
    for helper, callees in _HELPERS.items():
        if f"{helper}(" in body:
            needed.update(dict.fromkeys((*callees, helper)))
    return tuple(Kernel(h, render(f"kernels/ref/{h}.c.j2")) for h in needed)


def index(x: Tensor, y: Tensor) -> str:
    """C for which element of ``x`` the element ``i`` of ``y`` is made of (numerics.md, "Broadcasting")."""
    axes = [a for a in range(3) if y.shape[a] > 1]
    # Axes next to each other along which ``x`` is read as well need one division.
    runs: list[list[int]] = []
    joined = False
    for axis in axes:
        if joined := x.shape[axis] == y.shape[axis] and joined:
            runs[-1].append(axis)
        elif x.shape[axis] == y.shape[axis]:
            runs.append([axis])
            joined = True
    terms = []
    for run in runs:
        behind, own = (math.prod(t.shape[run[-1] + 1 :]) for t in (y, x))
        term = f"i / {behind}" if behind > 1 else "i"
        if math.prod(y.shape[: run[0]]) > 1:
            term = f"{term} % {math.prod(y.shape[a] for a in run)}"
        terms.append(f"({term}) * {own}" if own > 1 else term)
    return " + ".join(terms) or "0"


def operands(graph: Graph, node: Node) -> tuple[str, ...]:
    """``index`` of every operand of a sum or product."""
    return tuple(index(graph.tensor(name), graph.tensor(node.output)) for name in node.inputs)


def row_parts(t: Tensor) -> int:
    """Rows are independent: enough shares for a phone's cores, never more than there are rows."""
    return min(t.shape[0], 8)


def element(graph: Graph, name: str) -> int:
    return DTYPE_BYTES[graph.tensor(name).dtype]


def each_channel(values: np.ndarray, t: Tensor) -> np.ndarray:
    return np.broadcast_to(values, t.shape[2:]).copy()
