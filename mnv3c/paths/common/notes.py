"""What people should know about layers that a fast path leaves to the portable kernels."""

from __future__ import annotations

from mnv3c.codegen.program import Stage
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node

# The library's door, what runs once over a vector of channels and what is a copy: no loss.
_CHEAP = (q.Requantize, q.QMean, q.QConstant, q.Quantize, q.Dequantize, q.FlipSign)


def portable_notes(node: Node, stage: Stage, reason: str = "") -> tuple[str, ...]:
    """A note on ``node``, of which the portable ``stage`` is computed; none where that costs nothing.

    Args:
        reason: instead of the stage's title.
    """
    if isinstance(node, _CHEAP):
        return ()
    return (f"{node.name}: falls back to a portable kernel ({reason or stage.title})",)
