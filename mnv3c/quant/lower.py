"""Lowering of one group of float nodes to primitive integer nodes.

Every function reads the group's operands from the state, chooses the quantisation of the result from
what the float network computes on the calibration images, and returns the nodes. The caller executes
them, so that the next group is calibrated on what the integer network really hands it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node
from mnv3c.quant import spatial
from mnv3c.quant.choose import HEADROOM, choose, choose16, clip_bounds
from mnv3c.quant.groups import Group, is_gate
from mnv3c.quant.ranges import Affine
from mnv3c.quant.rounding import fit_weights
from mnv3c.quant.state import State
from mnv3c.quant.weights import (
    NEGLIGIBLE,
    accumulator_unit,
    fold_input_scale,
    make_conv,
    shorten,
)
from mnv3c.reference import floating
from mnv3c.reference.arithmetic import quantize_multiplier

# An accumulator unit finer than this share of the output's says nothing more and costs bias range.
_FINEST_8 = 2.0**-18
_FINEST_16 = 2.0**-11
# The other way round, the left shift before the multiplication stays small.
_COARSEST = 16.0
_GATE_ONE = 2.0**15
# A sum in 16 bits leaves one of them to its fraction.
_HALF_16 = 16383
# An average over so many pixels, all counted alike, is a depthwise convolution, which has fast kernels.
_LARGEST_WINDOW = 25
_SWISH_SHIFT_MAX = 7
_SWISH_REACH = 1.5 * 2**_SWISH_SHIFT_MAX


def lower(state: State, group: Group) -> list[Node]:
    """Integer nodes of a group; its output is stored as ``state.affine[group.output]`` says.

    Raises:
        Mnv3cError: the group has no integer form; names the node.
    """
    head = group.head
    if isinstance(head, f.Conv2d):
        return _conv_group(state, group, head)
    if isinstance(head, f.Activation):
        return _table(state, head)
    if isinstance(head, f.Add):
        return _add(state, group, head)
    if isinstance(head, f.Multiply):
        return _multiply(state, group, head)
    if isinstance(head, f.GlobalAveragePool):
        return _mean(state, head)
    if isinstance(head, f.Pool):
        return _pool(state, head)
    if isinstance(head, f.Concat):
        return spatial.concat(state, head, choose(state, head.output, single=True))
    for kind, rule in _MOVES.items():
        if isinstance(head, kind):
            return rule(state, head)
    raise Mnv3cError(f"no integer form of {type(head).__name__}", head.name)


def _conv_group(state: State, group: Group, conv: f.Conv2d) -> list[Node]:
    activation = group.activation
    if group.add is not None:
        return _conv_add(state, group, conv, group.add)
    if activation is not None and activation.kind == "hard_swish":
        return _conv_hard_swish(state, conv, activation)
    if activation is not None and activation.kind in ("hard_sigmoid", "sigmoid"):
        return _conv_gate(state, conv, activation)
    return _conv_int8(state, group, conv)


def _unit(state: State, conv: f.Conv2d) -> np.ndarray:
    """Accumulator units before the output's scale is known."""
    return accumulator_unit(conv, fold_input_scale(conv, state.affine[conv.inputs[0]].scale))


def _finish(
    state: State,
    conv: f.Conv2d,
    output: str,
    scale: np.ndarray | float,
    finest: float,
    zero_point: np.ndarray | float = 0.0,
    clamp: tuple[int, int] = (-128, 127),
    coarse: np.ndarray | float = 1.0,
) -> q.QConv:
    reach = state.reach(conv.inputs[0])
    # The units of an input in 16 bits are finer by as much.
    weights, bias = fit_weights(state, conv, scale, finest * 128 / reach)
    x = state.affine[conv.inputs[0]]
    return make_conv(conv, output, weights, bias, x, scale, zero_point, *clamp, coarse, reach)


def _conv_int8(state: State, group: Group, conv: f.Conv2d) -> list[Node]:
    name = group.output
    if name in state.raised:
        return final_conv(state, group, conv)
    result = choose(state, name, group.activation, floor=float(_unit(state, conv).max()) / _COARSEST)
    state.store(name, result)
    clamp = clip_bounds(group.activation, result)
    return [_finish(state, conv, name, result.scale, _FINEST_8, result.zero_point, clamp)]


def final_conv(state: State, group: Group, conv: f.Conv2d) -> list[Node]:
    """A convolution with an int16 result, such as the last."""
    result = choose16(state, group.output, floor=float(_unit(state, conv).max()) / _COARSEST)
    state.store(group.output, result, "int16")
    return [_finish(state, conv, group.output, result.scale, _FINEST_16, coarse=2.0**8)]


def _conv_hard_swish(state: State, conv: f.Conv2d, activation: f.Activation) -> list[Node]:
    # x * clip(slope * x + 1/2, 0, 1) is h-swish(6 * slope * x) / (6 * slope).
    stretch = 6.0 * activation.slope
    raised = activation.output in state.raised
    result = choose16(state, activation.output) if raised else choose(state, activation.output, activation)
    top = 32767 if raised else 127
    peak = float(state.exact[activation.output].max()) * stretch
    if peak > 2 * _SWISH_REACH:
        raise Mnv3cError(
            f"h-swish results up to {peak:.3g} are far beyond the {_SWISH_REACH:g} it holds", activation.name
        )
    # What exceeds the operator's reach is cut off by it, so no range need be wider.
    widest_scale = _SWISH_REACH / stretch / np.maximum(top - result.zero_point, 1)
    result = Affine(np.minimum(result.scale, widest_scale), result.zero_point)
    reach = float((result.scale * (top - result.zero_point)).max()) * stretch
    shift = min(max(0, int(np.ceil(np.log2(max(reach, 1e-30) / 1.5)))), _SWISH_SHIFT_MAX)
    # Sixteen bits leave room: a coarser unit that keeps the multiplier below one saves the pre-shift.
    widest = float(_unit(state, conv).max()) * stretch
    while (
        shift < _SWISH_SHIFT_MAX
        and widest >= _swish_unit(shift)
        and _swish_unit(shift) < result.scale.min() * stretch / 16
    ):
        shift += 1
    half = _swish_unit(shift) / 2 / stretch  # of the doubled product, in reals
    if raised:  # no multiplier reaches one; what an add asks for is the proportion of the scales
        least = half * _GATE_ONE / 32767 / float(result.scale.min())
        result = Affine(result.scale * max(1.0, least), result.zero_point)
    multiplier = np.clip(np.floor(half / result.scale * _GATE_ONE), 1, 32767)
    exact = Affine(half * _GATE_ONE / multiplier, result.zero_point)
    pre = state.declare(
        conv.output,
        state.source.tensor(conv.output).shape,
        "int16",
        Affine(np.asarray([2 * half]), np.zeros(1)),
    )
    state.store(activation.output, exact, "int16" if raised else "int8")
    # The slope of an h-swish reaches 1.5.
    coarse = np.maximum(exact.scale / (3 * half), 1.0 if raised else 0.0)
    return [
        _finish(state, conv, pre, 2 * half, _FINEST_16, coarse=coarse),
        q.QHardSwish(
            activation.name,
            (pre,),
            (activation.output,),
            shift,
            multiplier.astype(np.int16),
            exact.zero_point.astype(np.int16),
        ),
    ]


def _swish_unit(shift: int) -> float:
    """Real value of one unit of the h-swish input (numerics.md)."""
    return 3.0 * 2**shift / 2**15


def _conv_gate(state: State, conv: f.Conv2d, activation: f.Activation) -> list[Node]:
    hard = activation.kind == "hard_sigmoid"
    unit = 1.0 / (activation.slope * _GATE_ONE) if hard else spatial.SIGMOID_UNIT
    shape = state.source.tensor(conv.output).shape
    pre = state.declare(conv.output, shape, "int16", Affine(np.asarray([unit]), np.zeros(1)))
    state.store(activation.output, Affine(np.asarray([1 / _GATE_ONE]), np.zeros(1)), "int16")
    finished = _finish(state, conv, pre, unit, _FINEST_16, coarse=_GATE_ONE / 2**8)
    if not hard:
        return [finished, q.QSigmoid(activation.name, (pre,), (activation.output,), spatial.SIGMOID_TABLE)]
    offset = int(np.clip(round(activation.offset * _GATE_ONE), -32768, 32767))
    return [finished, q.QHardSigmoid(activation.name, (pre,), (activation.output,), offset)]


def _conv_add(state: State, group: Group, conv: f.Conv2d, add: f.Add) -> list[Node]:
    copies, other = _one_scale(state, add, 1 if add.inputs[0] == conv.output else 0)
    x, reach = state.affine[other], state.reach(other)
    peak = np.abs(state.exact[conv.output]).max(axis=(0, 1, 2)) * HEADROOM
    raised = group.output in state.raised
    if raised:
        result = _sum16(state, group.output, float((peak / x.scale).max()) + reach, x)
    else:
        floor = float(_unit(state, conv).max()) / 2**7
        result = choose(state, group.output, group.activation, floor=floor, single=True)
    scale, zero = result.scale, result.zero_point
    ratio = float(x.scale[0] / scale[0])
    # Both operands, their sum and the zero points have to stay within 16 bits.
    widest = peak / scale + np.abs(zero)
    fraction = _fraction(max(float(widest.max()) + reach * ratio, 128.0), reach * ratio, raised, add)
    fine = scale / 2**fraction
    multiplier = _add_multiplier(ratio, fraction, reach)
    taken = zero * 2**fraction - x.zero_point * multiplier / 2**7
    pre = state.declare(
        conv.output,
        state.source.tensor(conv.output).shape,
        "int16",
        Affine(fine, taken),
    )
    state.store(group.output, result, "int16" if raised else "int8")
    low, high = clip_bounds(group.activation, result)
    first = add.inputs[0] == conv.output
    return [
        *copies,
        _finish(state, conv, pre, fine, _FINEST_16, taken, coarse=1.0 if raised else 2.0**fraction),
        q.QAdd(
            add.name,
            (pre, other) if first else (other, pre),
            (group.output,),
            (0, multiplier) if first else (multiplier, 0),
            fraction,
            0,
            low,
            high,
        ),
    ]


def _add(state: State, group: Group, add: f.Add) -> list[Node]:
    copies, inputs = _one_scale_each(state, add)
    operands = [state.affine[i] for i in inputs]
    reaches = [state.reach(i) for i in inputs]
    raised = group.output in state.raised
    if raised:
        first = operands[0]
        span = sum(n * float(a.scale[0] / first.scale[0]) for a, n in zip(operands, reaches, strict=True))
        result = _sum16(state, group.output, 2 * span, first)  # zero points at most double the integers
    else:
        result = choose(state, group.output, group.activation, single=True)
        # An operand far wider than the sum would not fit; the sum's scale then follows the operands'.
        least = max(float(a.scale[0]) * n / 128 for a, n in zip(operands, reaches, strict=True)) / 32
        result = Affine(np.asarray([max(float(result.scale[0]), least)]), result.zero_point)
    scale, zero = float(result.scale[0]), float(result.zero_point[0])
    ratios = [float(a.scale[0]) / scale for a in operands]
    span = (
        sum(r * n for r, n in zip(ratios, reaches, strict=True))
        + abs(zero)
        + sum(r * abs(float(a.zero_point[0])) for r, a in zip(ratios, operands, strict=True))
    )
    widest = max(r * n for r, n in zip(ratios, reaches, strict=True))
    fraction = _fraction(span, widest, raised, add)
    multipliers = [_add_multiplier(r, fraction, n) for r, n in zip(ratios, reaches, strict=True)]
    bias = zero * 2**fraction - sum(
        m / 2**7 * float(a.zero_point[0]) for m, a in zip(multipliers, operands, strict=True)
    )
    state.store(group.output, result, "int16" if raised else "int8")
    low, high = clip_bounds(group.activation, result)
    return [
        *copies,
        q.QAdd(
            add.name,
            inputs,
            (group.output,),
            (multipliers[0], multipliers[1]),
            fraction,
            round(bias),
            low,
            high,
        ),
    ]


def _one_scale_each(state: State, node: f.Add | f.Multiply) -> tuple[list[Node], tuple[str, ...]]:
    """``_one_scale`` of both operands."""
    first, a = _one_scale(state, node, 0)
    second, b = _one_scale(state, node, 1)
    return [*first, *second], (a, b)


def _one_scale(state: State, node: f.Add | f.Multiply, i: int) -> tuple[list[Node], str]:
    """Operand ``i`` of a sum or product, which have one multiplier for all channels.

    The network's input may have a scale a channel, from its normalisation. A depthwise 1x1 convolution then
    brings it to one; where an add ties channels' scales together, their proportions are those of the sum.
    """
    name = node.inputs[i]
    a = state.affine[name]
    if (len(a.scale) == 1 and len(a.zero_point) == 1) or name in state.profiles:
        return [], name
    shape = state.source.tensor(name).shape
    label = f"{node.name}_operand{i}"
    result = choose(state, name, single=True)
    state.affine[label] = result
    state.declare(label, shape, "int8", result)
    copy = _copy(name, label, shape[2])
    return [_finish(state, copy, label, result.scale, _FINEST_8, result.zero_point)], label


def _copy(source: str, name: str, channels: int) -> f.Conv2d:
    """A depthwise convolution that changes nothing but scales."""
    weight, bias = np.ones((channels, 1, 1, 1), np.float32), np.zeros(channels, np.float32)
    return f.Conv2d(name, (source,), (name,), weight, bias, groups=channels)


def _sum16(state: State, name: str, span: float, x: Affine) -> Affine:
    """int16 quantisation of a sum: with one bit of fraction its operands stay within 16 bits too.

    Args:
        span: of both operands, in units of the scale of the operand ``x``.
    """
    profile = state.profiles.get(name, np.ones(1))
    floor = float((x.scale / profile).max()) * span / _HALF_16
    return choose16(state, name, floor=floor, reach=_HALF_16)


def _fraction(span: float, widest: float, raised: bool, add: f.Add) -> int:
    """Bits of fraction of a sum, so many that it stays within 16 bits and the multipliers below one.

    Args:
        span, widest: the greatest magnitudes of the sum, and of an operand with a multiplier.

    Raises:
        Mnv3cError: there is room for none.
    """
    bits = min(1 if raised else 7, *(int(np.floor(np.log2(32767 / n))) for n in (span, widest)))
    if bits < 1:
        raise Mnv3cError("operands of the sum are much wider than the sum itself", add.name)
    return bits


def _add_multiplier(ratio: float, fraction: int, reach: int) -> int:
    """The Q15 multiplier of a sum's operand: 8 bits are shifted up to 16 before they meet it."""
    return round(ratio * 2**fraction * _GATE_ONE * reach / 2**15)


def _multiply(state: State, group: Group, node: f.Multiply) -> list[Node]:
    data, gate = node.inputs
    if not is_gate(state.source, gate):
        result = choose(state, group.output, group.activation, single=True)
        copies, inputs = _one_scale_each(state, node)
        moved = dataclasses.replace(node, inputs=inputs, outputs=(group.output,))
        return [*copies, *spatial.product(state, moved, result, clip_bounds(group.activation, result))]
    x = state.affine[data]
    nodes, gate_name, one = _as_gate(state, node, gate)
    result = _choose_gated(state, group, node, one)
    ratio = x.scale * one / result.scale
    shift = 0
    while float(ratio.max()) >= 2**shift * 32767 / _GATE_ONE:
        shift += 1
    if shift > 7:
        raise Mnv3cError("the gated tensor is much narrower than its input", node.name)
    factor = np.clip(np.rint(ratio / 2**shift * _GATE_ONE), 0, 32767).astype(np.int16)
    state.store(group.output, result, "int16" if group.output in state.raised else "int8")
    low, high = clip_bounds(group.activation, result)
    gated = q.QGate(
        node.name,
        (data, gate_name),
        (group.output,),
        factor,
        x.zero_point.astype(np.int16),
        shift,
        int(result.zero_point[0]),
        low,
        high,
    )
    return [*nodes, gated]


def _choose_gated(state: State, group: Group, node: f.Multiply, one: float) -> Affine:
    """Quantisation of a gate's product: at least a 64th of the input's scale, one zero point.

    In 16 bits it may be half of that, which an input less its zero point, of 9 bits, uses fully.

    Args:
        one: what the gate's 2**15 stands for, which the input's scale is stretched by.
    """
    scale = state.affine[node.inputs[0]].scale * one
    if group.output in state.raised:
        return choose16(state, group.output, floor=float(scale.max()) * _GATE_ONE / 32766 / 2**7)
    result = choose(state, group.output, group.activation, common_zero=True)
    floor = scale / 64 if len(result.scale) > 1 else scale.max() / 64
    return Affine(np.maximum(result.scale, floor), result.zero_point)


def _as_gate(state: State, node: f.Multiply, gate: str) -> tuple[list[Node], str, float]:
    """The gate in 16 bits: as it is stored, or converted by a depthwise 1x1 convolution that scales it.

    Returns:
        What converts it, its name, and what 2**15 stands for: 1 for what stays within [-1, 1], else the
        power of two that the stored values stay below.
    """
    if state.tensors[gate].dtype == "int16":
        return [], gate, 1.0
    one = 1.0
    if float(np.abs(state.exact[gate]).max()) > 1.0:
        stored = state.affine[gate]
        most = float(np.max(stored.scale * np.maximum(127 - stored.zero_point, stored.zero_point + 128)))
        one = 2.0 ** max(0, math.ceil(math.log2(most)))
    channels = state.source.tensor(gate).shape[2]
    name, unit = f"{node.name}_gate", one / _GATE_ONE
    state.declare(name, (1, 1, channels), "int16", Affine(np.asarray([unit]), np.zeros(1)))
    copy = _copy(gate, name, channels)
    return [_finish(state, copy, name, unit, _FINEST_16, coarse=_GATE_ONE / 2**8)], name, one


def _mean(state: State, node: f.GlobalAveragePool) -> list[Node]:
    data = node.inputs[0]
    height, width, channels = state.source.tensor(data).shape
    x = state.affine[data]
    raised, reach = node.output in state.raised, state.reach(data)
    result = choose16(state, node.output) if raised else choose(state, node.output)
    scale = np.broadcast_to(x.scale, channels) / (height * width)
    # A mean is never finer than its sum's unit by more than the shift allows.
    result = Affine(np.maximum(result.scale, scale.max() / _COARSEST), result.zero_point)
    ratio = np.broadcast_to(scale / result.scale, channels)
    multiplier, shift = quantize_multiplier(ratio)
    area = height * width
    # A sum less its zero points is below 2 * reach * area.
    multiplier = shorten(
        multiplier.astype(np.float64), NEGLIGIBLE / (2.0 * reach * area) * 2.0 ** (31 - shift)
    )
    zero = np.broadcast_to(x.zero_point, channels) * area
    bias = shorten(result.zero_point * result.scale / scale - zero, NEGLIGIBLE / ratio)
    if not np.all(np.ldexp(np.abs(bias) + float(reach) * area, shift) < 2.0**31):
        raise Mnv3cError("too large an area for a 32-bit sum", node.name)
    total = state.declare(f"{node.output}_sum", (1, 1, channels), "int32", None)
    state.store(node.output, result, "int16" if raised else "int8")
    return [
        q.ChannelSum(f"{node.name}_sum", (data,), (total,)),
        q.Requantize(node.name, (total,), (node.output,), bias, q.Requant(multiplier, shift)),
    ]


def _pool(state: State, node: f.Pool) -> list[Node]:
    data = node.inputs[0]
    if node.kind == "max":
        state.store(node.output, state.affine[data])
        return [q.QMaxPool(node.name, node.inputs, node.outputs, node.kernel, node.stride, node.pad)]
    if (any(node.pad) and not node.count_include_pad) or node.kernel[0] * node.kernel[1] > _LARGEST_WINDOW:
        return spatial.average_pool(state, node, choose(state, node.output), _COARSEST)
    channels = state.source.tensor(data).shape[2]
    weight = np.full((channels, *node.kernel, 1), 1.0 / (node.kernel[0] * node.kernel[1]), np.float32)
    conv = f.Conv2d(
        node.name,
        node.inputs,
        node.outputs,
        weight,
        np.zeros(channels, np.float32),
        node.stride,
        node.pad,
        groups=channels,
    )
    return _conv_int8(state, Group((conv,)), conv)


def _table(state: State, node: f.Activation) -> list[Node]:
    """An activation with no fused form: a table from the stored int8 values."""
    x = state.affine[node.inputs[0]]
    result = choose(state, node.output, node, single=True)
    real = (np.arange(-128, 128) - x.zero_point[0]) * x.scale[0]
    value = floating.activation(node, real)
    table = np.clip(np.rint(value / result.scale[0] + result.zero_point[0]), -128, 127)
    state.store(node.output, result)
    return [q.QLut(node.name, node.inputs, node.outputs, table.astype(np.int8))]


_MOVES: dict[type[Node], Callable[[State, Any], list[Node]]] = {
    f.Resize: spatial.resize,
    f.ArgMax: spatial.argmax,
    f.Softmax: spatial.softmax,
    f.Slice: spatial.part,
    f.Spread: spatial.spread,
    f.Constant: spatial.constant,
}
