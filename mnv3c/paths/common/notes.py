"""What people should know about layers that a fast path leaves to the portable kernels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mnv3c.codegen.program import Stage
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node

_FALLS_BACK = "falls back to a portable kernel"
# The library's door, what runs once over a vector of channels and what is a copy: no loss.
_CHEAP = (q.Requantize, q.QMean, q.QConstant, q.Quantize, q.Dequantize, q.FlipSign)


def portable_notes(node: Node, stage: Stage, reason: str = "") -> tuple[str, ...]:
    """A note on ``node``, of which the portable ``stage`` is computed; none where that costs nothing.

    Args:
        reason: instead of the stage's title.
    """
    if isinstance(node, _CHEAP):
        return ()
    return (f"{node.name}: {_FALLS_BACK} ({reason or stage.title})",)


def summary(path: str, notes: Sequence[str]) -> str | None:
    """One line on all layers of a path that fall back, by kind; ``None`` where none does."""
    portable = re.compile(rf": {_FALLS_BACK} \((.*)\)$")
    kinds = Counter(m[1].partition(", ")[0] for note in notes if (m := portable.search(note)))
    if not kinds:
        return None
    count, several = kinds.total(), kinds.total() > 1
    each = ", ".join(f"{kind} ({n})" if n > 1 else kind for kind, n in kinds.most_common())
    verb = "layers fall back to portable kernels" if several else "layer falls back to a portable kernel"
    return f"{path}: {count} {verb}: {each}"
