"""Matrix times vector: convolutions of 1x1 maps (SE layers, classifier)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.ir import int_ops as q
from mnv3c.paths.common.knobs import Knob, by_rule
from mnv3c.paths.dotprod.epilogue import Epilogue, is_wide, layer_record, quad_records
from mnv3c.paths.dotprod.loads import loads_of
from mnv3c.paths.dotprod.outliers import header_steps, most_extra_steps, pack_extra, split
from mnv3c.schedules import table_of


@dataclass(frozen=True, eq=False)
class VectorKernel:
    """Kernel and constants; the matrix is split in groups of ``quads`` output quads."""

    kernel: Kernel
    weights: np.ndarray
    params: np.ndarray
    common: np.ndarray
    depth: int
    groups: int


def _differs(values: np.ndarray) -> bool:
    return bool((values != values.flat[0]).any())


def vector_kernel(node: q.FusedConv, out_dtype: str, knob: Knob = by_rule) -> VectorKernel:
    """For a convolution of a ``(1, 1, C)`` tensor with no residual and no table.

    Weights are packed ``[group][depth / 4][quads][4 outputs][4 inputs]``, and behind a group's what
    ``outliers`` adds; the input is read in whole 8 bytes.
    """
    conv = node.conv
    weight = conv.weight.reshape(conv.weight.shape[0], -1)
    out, depth = weight.shape
    out_quads = -(-out // 4)
    group = knob("quads", table_of("vector").default_quads(out_quads))
    eighths = -(-depth // 8)
    extra = most_extra_steps(weight)
    padded = np.zeros((out_quads * 4, eighths * 8), np.int8)
    padded[:out, :depth] = split(weight).base
    packed = padded.reshape(out_quads // group, group, 4, eighths * 2, 4).transpose(0, 3, 1, 2, 4)
    if extra:
        base = packed.reshape(out_quads // group, -1)
        packed = np.concatenate([base, pack_extra(weight, group, 4, extra)], axis=1)
    swish = node.activation if isinstance(node.activation, q.QHardSwish) else None
    offset = swish.offset if swish else conv.requant.offset
    channel = out_dtype == "int8" and (_differs(offset) or bool(swish and _differs(swish.multiplier)))
    e = Epilogue(
        kind="hswish" if swish else "hsigmoid" if isinstance(node.activation, q.QHardSigmoid) else "plain",
        shift=conv.requant.shift,
        offset="channel" if channel else "uniform",
        swish_channel=channel and swish is not None,
        wide=is_wide(node),
        right=conv.requant.right is not None,
        extra=extra,
    )
    half = eighths % 2
    variant = (
        "_channel" * channel + ("_twice" if e.right else "_wide" * e.wide) + f"_extra{extra}" * bool(extra)
    )
    single, attribute = loads_of(knob)
    variant += single
    name = f"vector_{group}_{'half_' if half else ''}{e.kind}_{out_dtype}_shift{e.shift}{variant}_dotprod"
    source = render(
        "kernels/dotprod/vector.c.j2",
        name=name,
        loads=attribute,
        epilogue=e,
        quads=group,
        half=half,
        header=header_steps(group, 4, extra),
        out=out_dtype,
    )
    return VectorKernel(
        Kernel(name, source),
        np.ascontiguousarray(packed),
        quad_records(node, e),
        layer_record(node),
        eighths // 2,
        out_quads // group,
    )
