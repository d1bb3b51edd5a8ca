"""The tables of an integer softmax."""

from __future__ import annotations

import math

from mnv3c.errors import Mnv3cError
from mnv3c.ir import int_ops as q

# Their sum stays within 31 bits with so many bits of each that rounding them moves no result by a level.
MOST_CLASSES = 4096
MOST_TABLE = 1 << 30
MOST_SUM = 1 << 31
_FINEST = 2.0**-16


def softmax_node(
    name: str,
    x: str,
    y: str,
    *,
    scale: float,
    classes: int,
    output_scale: float = 2.0**-8,
    offset: int = -128,
    groups: int = 1,
) -> q.QSoftmax:
    """The node from ``x`` to ``y``, both names of tensors.

    Args:
        scale: of ``x``.
        classes: channels of a run.
        output_scale, offset: of ``y``; the offset is its zero point.
        groups: runs of channels, each of which has a softmax of its own.

    Raises:
        Mnv3cError: too many classes, or the output's scale is finer than 16 bits.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise Mnv3cError(f"softmax over {classes} channels; up to {MOST_CLASSES} are supported", name)
    if not _FINEST <= output_scale < math.inf:
        raise Mnv3cError(f"softmax to a scale of {output_scale:g} is not supported", name)
    levels = 1.0 / output_scale
    bits = 30 - math.ceil(math.log2(max(levels, 1.0)))
    one = 2.0 ** min(bits, 31 - math.ceil(math.log2(classes)))
    exponential = [math.exp(-d * scale) for d in range(256)]
    return q.QSoftmax(
        name,
        (x,),
        (y,),
        tuple(round(one * e) for e in exponential),
        tuple(round(one * levels * e) for e in exponential),
        offset,
        groups,
    )
