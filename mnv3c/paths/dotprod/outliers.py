"""Weights of 9 bits as weights of 8 bits and a few steps more.

Asymmetric uint8 weights less their zero point may need [-255, 255]. As one scale serves a whole tensor, very
few weights of a layer, often a single one, leave [-128, 127]. What they exceed it by is a matrix of almost
nothing but zeros: only the input quads that it touches are multiplied again, where it touches them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOW, HIGH = -128, 127


@dataclass(frozen=True, eq=False)
class Split:
    """``weight = base + sum of rest``.

    Attributes:
        base: int8, of the weights' shape.
        rest: int8 of the same shape: at most two, the second one for 255 or -255 alone.
    """

    base: np.ndarray
    rest: tuple[np.ndarray, ...]


def split(weight: np.ndarray) -> Split:
    """Weights in [-255, 255] as sums of int8."""
    parts: list[np.ndarray] = []
    left = weight.astype(np.int16)
    while not parts or left.any():
        parts.append(np.clip(left, LOW, HIGH).astype(np.int8))
        left = left - parts[-1]
    return Split(parts[0], tuple(parts[1:]))


def extra_steps(weight: np.ndarray, group: int, unit: int) -> list[list[tuple[int, np.ndarray]]]:
    """For each group of output channels the steps that come after all others.

    Args:
        weight: ``[out, in]``, in [-255, 255].
        group: output channels a group.
        unit: input channels a step.

    Returns:
        For each group pairs (step of the input, int8 weights ``[group, unit]``).
    """
    out, depth = weight.shape
    groups, units = -(-out // group), -(-depth // unit)
    result: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(groups)]
    for rest in split(weight).rest:
        padded = np.zeros((groups * group, units * unit), np.int8)
        padded[:out, :depth] = rest
        steps = padded.reshape(groups, group, units, unit)
        for g, u in np.argwhere(steps.any(axis=(1, 3))):
            result[g].append((int(u), steps[g, :, u]))
    return result


def most_extra_steps(weight: np.ndarray) -> int:
    """Extra steps that any group of up to 6 output quads may need; 0 where all weights fit 8 bits."""
    if weight.dtype == np.int8:
        return 0
    matrix = weight.reshape(weight.shape[0], -1)
    if matrix.min() >= LOW and matrix.max() <= HIGH:
        return 0
    return max(len(steps) for quads in range(1, 7) for steps in extra_steps(matrix, 4 * quads, 4))


def pack_extra(weight: np.ndarray, quads: int, unit: int, most: int) -> np.ndarray:
    """int8 ``[groups, bytes]``: what stands behind a group's weights for its extra steps.

    Int32 numbers first, their count and the byte offset of each step's input (``unit * 4`` bytes a step).
    After ``header_steps`` steps' bytes their weights, ``[quad][4 outputs][unit inputs]``, room for ``most``.
    """
    step_bytes = 4 * quads * unit
    header = header_steps(quads, unit, most) * step_bytes
    groups = extra_steps(weight, 4 * quads, unit)
    packed = np.zeros((len(groups), header + most * step_bytes), np.int8)
    for row, steps in zip(packed, groups, strict=True):
        places = np.asarray([len(steps), *(4 * unit * u for u, _ in steps)], "<i4")
        row[: places.nbytes] = places.view(np.int8)
        for i, (_, weights) in enumerate(steps):
            row[header + i * step_bytes :][:step_bytes] = weights.reshape(-1)
    return packed


def header_steps(quads: int, unit: int, most: int) -> int:
    """Steps' worth of bytes that the numbers of ``pack_extra`` take."""
    return -(-4 * (1 + most) // (4 * quads * unit)) if most else 0
