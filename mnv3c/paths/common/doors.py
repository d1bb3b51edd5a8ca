"""float32 to int8 at a library's door, in vectors of 16 values, for every path of 64-bit Arm."""

from __future__ import annotations

from math import lcm

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.enlarge import Source
from mnv3c.paths.common.shares import split_rows

_LANES = 16


def quantize_kernel(qualifier: str, suffix: str) -> Kernel:
    """Takes values, where to, their number, scales, zero points, and after how many these repeat."""
    return Kernel(
        f"quantize_{suffix}", render("kernels/arm64/quantize.c.j2", qualifier=qualifier, suffix=suffix)
    )


def quantize_tables(node: q.Quantize, channels: int) -> tuple[Constant, Constant]:
    """Scales (float32) and zero points (int16), repeated to whole vectors."""
    period = lcm(_LANES, channels)
    scale = np.resize(np.broadcast_to(np.asarray(node.inverse_scale, np.float32), (channels,)), period)
    zero = np.resize(np.broadcast_to(np.asarray(node.zero_point, np.int16), (channels,)), period)
    if len(set(scale.tolist())) == len(set(zero.tolist())) == 1:
        scale, zero = scale[:_LANES], zero[:_LANES]
    label = identifier(node.name)
    scales = Constant(f"inverse_scales_{label}", scale, "table")
    return scales, Constant(f"zero_points_{label}", zero, "table")


def quantize_stage(node: q.Quantize, y: Tensor, source: Source) -> Stage:
    """The stage of a dense map; begins its shares at rows."""
    _, width, channels = y.shape
    kernel, tables = quantize_kernel(source.qualifier, source.suffix), quantize_tables(node, channels)
    shares = split_rows(y.shape)
    row = width * channels
    body = (
        f"const int32_t first = {shares.begin};\n"
        f"{kernel.name}((const float *)(const void *)R_{source.read} + first * {row},"
        f" (int8_t *)R_{source.write} + first * {row}, ({shares.end} - first) * {row},"
        f" {tables[0].name}, {tables[1].name}, {tables[0].data.size});"
    )
    return Stage(
        name=f"quantize_{identifier(node.name)}",
        title=f"quantise {shape_text(y)}",
        nodes=(node.name,),
        reads=(source.read,),
        writes=(source.write,),
        body=body,
        kernels=(kernel,),
        constants=tables,
        parts=shares.parts,
    )
