"""A gate for every pixel, in vectors of 8 channels, for every path of 64-bit Arm."""

from __future__ import annotations

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.paths.common.enlarge import Source, shape_text
from mnv3c.paths.common.shares import split

_VECTOR = 8
# Below, waking other threads costs more than they save.
_SHARED_FROM = 16 * 1024


def can_gate(node: q.QGate, x: Tensor, gate: Tensor, y: Tensor) -> bool:
    """Whether ``gate_stage`` can be made."""
    types = (x.dtype, gate.dtype, y.dtype)
    return types == ("int8", "int16", "int8") and gate.shape == x.shape and x.shape[2] % _VECTOR == 0


def gate_stage(node: q.QGate, x: Tensor, source: Source, gate: str) -> Stage:
    """The stage of a gate of the map's own shape; all dense.

    Args:
        gate: the gate's region.
    """
    label = identifier(node.name)
    height, width, channels = x.shape
    name = f"gate_map_shift{node.shift}_{source.suffix}"
    kernel = render("kernels/arm64/gate_map.c.j2", name=name, qualifier=source.qualifier, shift=node.shift)
    shares = split(height) if x.elements >= _SHARED_FROM else split(height, 1)
    zeros = np.broadcast_to(node.zero_point, (channels,)).astype(np.int16) << node.shift
    arrays = {
        "factor": (np.broadcast_to(node.factor, (channels,)).astype(np.int16), "multiplier"),
        "zeros": (zeros, "table"),
        "numbers": (np.asarray([node.offset, node.low, node.high], np.int16), "table"),
    }
    row = width * channels
    body = (
        f"const int32_t first = {shares.begin};\n"
        f"{name}((const int8_t *)R_{source.read} + first * {row},"
        f" (const int16_t *)(const void *)R_{gate} + first * {row},"
        f" (int8_t *)R_{source.write} + first * {row},"
        f" factor_{label}, zeros_{label}, numbers_{label}, {channels}, ({shares.end} - first) * {width});"
    )
    return Stage(
        name=label,
        title=f"gate of every pixel, {shape_text(x)}",
        nodes=(node.name,),
        reads=(source.read, gate),
        writes=(source.write,),
        body=body,
        in_place=((source.read, source.write),),
        kernels=(Kernel(name, kernel),),
        constants=tuple(Constant(f"{key}_{label}", data, role) for key, (data, role) in arrays.items()),
        parts=shares.parts,
    )
