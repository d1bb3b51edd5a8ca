"""Every convolution with exactly one bias; constant factors and shifts inside convolutions.

Before::

    lv1 = R.nn.conv2d(lv, w); lv2 = R.multiply(lv1, s); lv3 = R.add(lv2, t)

After::

    lv1 = R.nn.conv2d(lv, w * s); lv3 = R.add(lv1, t)

A factor in front of a convolution moves into its weights, and so does a shift where the convolution does
not pad. Whatever is left becomes a 1x1 depthwise convolution, so no scale or shift stays on its own.
(Those inside hard sigmoid and h-swish are out of sight: ``partition_activations`` has run.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    constant,
    is_constant,
    operator,
    rewrite,
    shape_of,
)


def fold_affine(mod: Any) -> Any:
    """Fold multiplications and additions by constants into the convolutions around them."""
    # Forward folding leaves a shift behind its convolution, so backward folding comes twice.
    for rule in (_fold_back, _fold_forward, _fold_back, _leftover):
        mod = rewrite(mod, rule)
    return mod


def _fold_back(context: Context, call: Any) -> Any | None:
    name = operator(call)
    if name == "relax.nn.conv2d":
        return _bias(context, context.emit(call), np.zeros(shape_of(call.args[1])[0]))
    if name not in ("relax.multiply", "relax.add") or not is_constant(call.args[1]):
        return None
    found = _convolution(context, call.args[0])
    if found is None:
        return None
    conv, bias = found
    values = np.broadcast_to(array(call.args[1]).astype(np.float64).reshape(-1), bias.shape)
    if name == "relax.multiply":
        scaled = array(conv.args[1]) * values[:, None, None, None]
        return _bias(context, context.emit(_with(conv, conv.args[0], scaled)), bias * values)
    return _bias(context, context.emit(conv), bias + values)


def _fold_forward(context: Context, call: Any) -> Any | None:
    if operator(call) != "relax.nn.conv2d":
        return None
    data, weight = call.args[0], array(call.args[1])
    outputs, per_group = weight.shape[:2]
    groups = int(call.attrs.groups)
    # [outputs, inputs of its group]: which input channel each weight reads.
    reads = np.arange(groups).repeat(outputs // groups)[:, None] * per_group + np.arange(per_group)
    bias, changed = np.zeros(outputs), False
    while True:
        step = context.defined_by(data, "relax.multiply", "relax.add")
        if step is None or not is_constant(step.args[1]) or not context.used_once(data):
            break
        if operator(step) == "relax.add" and any(int(p) for p in call.attrs.padding):
            break
        if context.defined_by(step.args[0], "relax.nn.conv2d") is not None:
            break  # the bias of the convolution before
        values = np.broadcast_to(array(step.args[1]).astype(np.float64).reshape(-1), groups * per_group)
        if operator(step) == "relax.multiply":
            weight = weight * values[reads][:, :, None, None]
        else:
            bias = bias + (weight * values[reads][:, :, None, None]).sum(axis=(1, 2, 3))
        data, changed = step.args[0], True
    if not changed:
        return None
    new = context.emit(_with(call, data, weight))
    return context.emit(relax.op.add(new, constant(bias.reshape(1, -1, 1, 1)))) if bias.any() else new


def _leftover(context: Context, call: Any) -> Any | None:
    name = operator(call)
    if name not in ("relax.multiply", "relax.add") or not is_constant(call.args[1]):
        return None
    if name == "relax.add" and context.defined_by(call.args[0], "relax.nn.conv2d") is not None:
        return None
    channels = shape_of(call.args[0])[1]
    values = np.broadcast_to(array(call.args[1]).astype(np.float64).reshape(-1), channels)
    weight = values if name == "relax.multiply" else np.ones(channels)
    bias = np.zeros(channels) if name == "relax.multiply" else values
    conv = relax.op.nn.conv2d(call.args[0], constant(weight.reshape(-1, 1, 1, 1)), groups=channels)
    return _bias(context, context.emit(conv), bias)


def _convolution(context: Context, expr: Any) -> tuple[Any, np.ndarray] | None:
    """The convolution and the bias behind a value that nothing else reads."""
    step = context.defined_by(expr, "relax.add")
    conv = context.defined_by(step.args[0], "relax.nn.conv2d") if step is not None else None
    if conv is None or not context.used_once(expr):
        return None
    return conv, array(step.args[1]).astype(np.float64).reshape(-1)


def _with(conv: Any, data: Any, weight: np.ndarray) -> Any:
    return relax.Call(conv.op, [data, constant(weight)], conv.attrs)


def _bias(context: Context, conv: Any, bias: np.ndarray) -> Any:
    return context.emit(relax.op.add(conv, constant(bias.reshape(1, -1, 1, 1))))
