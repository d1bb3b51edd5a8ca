"""Bounds of a convolution's intermediate values, proven from its weights."""

from __future__ import annotations

from mnv3c.ir.int_ops import QConv
from mnv3c.paths.common.products import accumulator_bounds
from mnv3c.reference.arithmetic import rdmulh32
from mnv3c.reference.requantize import second_rounding


def requantised_range(conv: QConv) -> tuple[int, int]:
    """Least and greatest value that requantisation can give before it saturates to 16 bits."""
    low, high = (
        rdmulh32(acc << conv.requant.shift, conv.requant.multiplier) for acc in accumulator_bounds(conv)
    )
    if conv.requant.right is not None:
        low, high = (second_rounding(v, conv.requant.right, away=False) for v in (low, high))
    return int(low.min()), int(high.max())
