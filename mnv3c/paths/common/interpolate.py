"""Bilinear enlargement in vectors, for every path of 64-bit Arm: how, and where outputs find their inputs.

Rows of the input are brought to the output's width ("lines"), then every output row lies between two of
these. Weights have a common power of two where the sizes do: 65 rows out of 17 need quarters, not 2048ths.
What is left decides how wide the lanes of a line are:

* ``narrow``: int8 to int8 over 16 bits;
* ``wide``: int8 to int8 over 32 bits;
* ``long``: int16 to int16 over 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.positions import positions

# Bytes.
VECTOR = 16
# Fraction bits that int16 lanes hold beside a value of 8 bits, and that an int8 weight holds.
_NARROW_BITS, _NARROW_COLUMN_BITS = 8, 6


@dataclass(frozen=True, eq=False)
class Axis:
    """Neighbours of every output position, and the weight of the upper one in ``2**-bits``."""

    below: np.ndarray
    above: np.ndarray
    weights: np.ndarray
    bits: int

    @property
    def pairs(self) -> np.ndarray:
        """int16 ``[out, 2]``: neighbour below, weight of the one above."""
        return np.stack([self.below, self.weights], axis=1).astype(np.int16)


def axis(size: int, out: int, coordinates: str, bits: int, least: int = 0) -> Axis:
    """Positions of a resize with as few bits, ``least`` or more, as say its weights exactly."""
    at = positions(size, out, coordinates)
    below, weights = at.weights(bits)
    common = int(np.gcd.reduce(weights)) or 1 << bits
    drop = min((common & -common).bit_length() - 1, bits - least)
    return Axis(below, at.above(below), weights >> drop, bits - drop)


@dataclass(frozen=True, eq=False)
class Plan:
    """A resize in vectors.

    Attributes:
        kind: see the module.
        rows, columns: one bit of the rows' weights is kept at least, so that something is rounded away.
    """

    kind: str
    rows: Axis
    columns: Axis

    @property
    def shift(self) -> int:
        return self.rows.bits + self.columns.bits

    @property
    def lane_bytes(self) -> int:
        return 2 if self.kind == "narrow" else 4

    @property
    def outputs(self) -> int:
        """Results of a lookup in 32 bytes."""
        return 8 if self.kind == "long" else 16


def plan(node: q.QResize, x: Tensor, size: tuple[int, int]) -> Plan | None:
    """How to enlarge ``x`` to ``size`` (height, width); ``None`` for what these kernels cannot do."""
    if node.kind != "bilinear" or x.dtype not in ("int8", "int16"):
        return None
    rows = axis(x.shape[0], size[0], node.coordinates, node.bits, least=1)
    columns = axis(x.shape[1], size[1], node.coordinates, node.bits)
    few = rows.bits + columns.bits <= _NARROW_BITS and columns.bits <= _NARROW_COLUMN_BITS
    kind = "long" if x.dtype == "int16" else "narrow" if few else "wide"
    return Plan(kind, rows, columns)


@dataclass(frozen=True, eq=False)
class Lookups:
    """Where groups of neighbouring outputs find their inputs.

    Attributes:
        places: int16 ``[groups, 2]``: where the 32 bytes begin, and the number of a pattern.
        patterns: int8 ``[patterns, bytes]``: indices of both neighbours, then weights of both.
    """

    places: np.ndarray
    patterns: np.ndarray


def tile_lookups(p: Plan, tiles: int) -> Lookups | None:
    """For groups of 4 pixels in rows of ``tiles`` tiles; ``None`` where two neighbours do not hold them."""
    below, above, weights = (grouped(v, 4) for v in (p.columns.below, p.columns.above, p.columns.weights))
    base = np.clip(below.min(axis=1) // 4, 0, max(tiles - 2, 0))
    spread = np.arange(16) % 4
    near, far = (4 * np.repeat(v - 4 * base[:, None], 4, axis=1) + spread for v in (below, above))
    if max(near.max(), far.max()) >= 2 * VECTOR:
        return None
    return _lookups(p, base, near, far, np.repeat(weights, 4, axis=1))


def row_lookups(p: Plan) -> Lookups | None:
    """For rows of one channel; ``None`` where 32 bytes do not hold a group's inputs."""
    below, above, weights = (
        grouped(v, p.outputs) for v in (p.columns.below, p.columns.above, p.columns.weights)
    )
    base = below.min(axis=1)
    size = VECTOR // p.outputs
    near, far = (
        size * np.repeat(v - base[:, None], size, axis=1) + np.arange(VECTOR) % size for v in (below, above)
    )
    if max(near.max(), far.max()) >= 2 * VECTOR:
        return None
    return _lookups(p, base, near, far, weights)


def grouped(values: np.ndarray, count: int) -> np.ndarray:
    """``[groups, count]``; the last group repeats the last value."""
    groups = -(-values.size // count)
    return np.pad(values, (0, groups * count - values.size), mode="edge").reshape(groups, count)


def _lookups(p: Plan, base: np.ndarray, near: np.ndarray, far: np.ndarray, weights: np.ndarray) -> Lookups:
    element = np.int8 if p.kind == "narrow" else np.int16
    both = np.concatenate([(1 << p.columns.bits) - weights, weights], axis=1).astype(element)
    indices = np.concatenate([near, far], axis=1).astype(np.int8)
    rows = np.concatenate([indices, both.view(np.int8)], axis=1)
    patterns, number = np.unique(rows, axis=0, return_inverse=True)
    return Lookups(np.stack([base, number.reshape(-1)], axis=1).astype(np.int16), patterns)


def fits(node: q.QResize | q.FusedResizeArgMax, x: Tensor, y: Tensor, form: str) -> bool:
    """Whether the stages below can be made for a ``Source.form``."""
    p = plan(node if isinstance(node, q.QResize) else node.resize, x, y.shape[:2])
    if p is None:
        return False
    if isinstance(node, q.FusedResizeArgMax):
        return row_lookups(p) is not None
    return form == "pixels" or tile_lookups(p, -(-x.shape[1] // 4)) is not None
