"""Requantisation of accumulators (numerics.md)."""

from __future__ import annotations

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.reference.arithmetic import I64, rdmulh32, sat16


def requantize(acc: np.ndarray, r: q.Requant, dtype: str) -> np.ndarray:
    """int64 accumulators ``[..., C]`` to int16 or int8 (numerics.md, "Requantisation")."""
    product = rdmulh32(acc << r.shift, r.multiplier)
    v = sat16(product if r.right is None else second_rounding(product, r.right, away=False))
    if dtype == "int16":
        return v
    return np.clip(v + r.offset.astype(I64), r.low, r.high)


def second_rounding(x: np.ndarray, n: np.ndarray, away: bool) -> np.ndarray:
    """Rounding shift right by ``n[c]``, of which 0 leaves a channel as it is; halves up or away from 0."""
    n = n.astype(I64)
    half = (1 << n) >> 1
    return np.sign(x) * ((np.abs(x) + half) >> n) if away else (x + half) >> n
