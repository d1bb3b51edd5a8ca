"""Inference-time batch norm as one scale and one shift a channel; dropout as nothing.

Before::

    lv1 = R.nn.batch_norm(lv, gamma, beta, mean, variance, epsilon=e); lv2 = lv1[0]

After::

    lv1 = R.multiply(lv, s); lv2 = R.add(lv1, t)
    s = gamma / sqrt(variance + e), t = beta - mean * s        (Ioffe and Szegedy 2015, algorithm 2)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    constant,
    is_constant,
    operator,
    rewrite,
    shape_of,
)


def expand_batch_norm(mod: Any) -> Any:
    """Replace batch norm by a multiplication and an addition, and drop dropout."""
    return rewrite(mod, _expand)


def _expand(context: Context, value: Any) -> Any | None:
    if not isinstance(value, relax.TupleGetItem):
        return None
    call = context.definition(value.tuple_value)
    if operator(call) == "relax.nn.dropout":
        return call.args[0]
    if operator(call) != "relax.nn.batch_norm":
        return None
    if not all(is_constant(a) for a in call.args[1:]) or value.index != 0:
        raise Mnv3cError("batch norm parameters must be constants", "BatchNormalization")
    gamma, beta, mean, variance = (array(a).astype(np.float64) for a in call.args[1:])
    shape = [1] * len(shape_of(call.args[0]))
    shape[int(call.attrs.axis)] = -1
    spread = variance + float(call.attrs.epsilon)
    if not bool((spread > 0).all()):
        raise Mnv3cError("batch norm variance plus epsilon is not positive", "BatchNormalization")
    scale = gamma / np.sqrt(spread)
    scaled = context.emit(relax.op.multiply(call.args[0], constant(scale.reshape(shape))))
    return relax.op.add(scaled, constant((beta - mean * scale).reshape(shape)))
