"""Integer forms of the operators that move or interpolate pixels, and of products of two maps.

Every function reads the group's operands from the state, stores the result's quantisation there and
returns the nodes, as those of ``mnv3c.quant.lower`` do.
"""

from __future__ import annotations

import math

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node
from mnv3c.ir.softmax import softmax_node
from mnv3c.quant.groups import is_gate
from mnv3c.quant.ranges import Affine, affine
from mnv3c.quant.state import State
from mnv3c.reference.arithmetic import quantize_multiplier

SIGMOID_TABLE = tuple(min(round(2**15 / (1.0 + math.exp(-(i - 128) / 16.0))), 32767) for i in range(257))
SIGMOID_UNIT = 2.0**-12
_BITS = {"int8": 11, "int16": 7}
_HEADROOM = 1.5


def resize(state: State, node: f.Resize) -> list[Node]:
    """At the input's scale, in its width."""
    source = node.inputs[0]
    dtype = state.tensors[source].dtype
    state.store(node.output, state.affine[source], dtype)
    bits = _BITS[dtype] if node.kind == "bilinear" else 1
    return [q.QResize(node.name, node.inputs, node.outputs, node.kind, node.coordinates, node.rounding, bits)]


def argmax(state: State, node: f.ArgMax) -> list[Node]:
    """Class numbers in a byte.

    Raises:
        Mnv3cError: more classes than a byte counts.
    """
    source = node.inputs[0]
    if state.source.tensor(source).shape[2] > 256:
        raise Mnv3cError("argmax over more than 256 classes is not supported", node.name)
    a = state.affine[source]
    if len(np.unique(a.scale)) > 1 or len(np.unique(a.zero_point)) > 1:
        raise Mnv3cError("argmax over channels of different scales", node.name)
    state.store(node.output, Affine(np.ones(1), np.zeros(1)), "uint8")
    return [q.QArgMax(node.name, node.inputs, node.outputs)]


def softmax(state: State, node: f.Softmax) -> list[Node]:
    """In 256 steps; in Q15 where 16 bits are read, as by the product that it is the gate of.

    Raises:
        Mnv3cError: the input has several scales, is not stored in 8 bits or has too many classes.
    """
    source = node.inputs[0]
    x = state.affine[source]
    if len(x.scale) > 1 or len(x.zero_point) > 1:
        raise Mnv3cError("softmax over channels of different scales", node.name)
    if state.tensors[source].dtype != "int8":
        raise Mnv3cError("softmax of something that is not stored in 8 bits", node.name)
    wide = node.output in state.wide or is_gate(state.source, node.output)
    scale, offset = (2.0**-15, 0) if wide else (2.0**-8, -128)
    state.store(node.output, Affine(np.asarray([scale]), np.asarray([offset])), "int16" if wide else "int8")
    return [
        softmax_node(
            node.name,
            source,
            node.output,
            scale=float(x.scale[0]),
            classes=state.source.tensor(source).shape[2] // node.groups,
            output_scale=scale,
            offset=offset,
            groups=node.groups,
        )
    ]


def wide_add(state: State, node: f.Add) -> list[Node]:
    """The sum of two int16 tensors in int16, at a scale that holds what was seen, and half more."""
    operands = [float(state.affine[i].scale[0]) for i in node.inputs]
    peak = float(np.abs(state.exact[node.output]).max()) or 1.0
    # A multiplier of one is 2**15, just beyond Q15.
    scale = max(_HEADROOM * peak / 32767, max(operands) * 2**15 / 32767)
    multipliers = [int(np.rint(s / scale * 2**15)) for s in operands]
    state.store(node.output, Affine(np.asarray([scale]), np.zeros(1)), "int16")
    return [q.QAdd16(node.name, node.inputs, node.outputs, (multipliers[0], multipliers[1]))]


def concat(state: State, node: f.Concat, result: Affine) -> list[Node]:
    """int8 operands brought to one scale by tables where theirs differ.

    Args:
        result: of the output, one scale.
    """
    state.store(node.output, result)
    nodes: list[Node] = []
    names = []
    for i, name in enumerate(node.inputs):
        x = state.affine[name]
        if np.array_equal(x.scale, result.scale) and np.array_equal(x.zero_point, result.zero_point):
            names.append(name)
            continue
        if len(x.scale) > 1 or len(x.zero_point) > 1:
            raise Mnv3cError("joins a tensor of one scale a channel", node.name)
        label = f"{node.output}_part{i}"
        real = (np.arange(-128, 128) - x.zero_point[0]) * x.scale[0]
        table = np.clip(np.rint(real / result.scale[0] + result.zero_point[0]), -128, 127)
        state.declare(label, state.source.tensor(name).shape, "int8", result)
        nodes.append(q.QLut(label, (name,), (label,), table.astype(np.int8)))
        names.append(label)
    return [*nodes, q.QConcat(node.name, tuple(names), node.outputs, node.axis)]


def part(state: State, node: f.Slice) -> list[Node]:
    """A box at the input's scale (that of its own channels, where those differ)."""
    source = node.inputs[0]
    x = state.affine[source]
    begin, count = node.begin[2], state.source.tensor(node.output).shape[2]
    scale, zero = (v[begin : begin + count] if len(v) > 1 else v for v in (x.scale, x.zero_point))
    state.store(node.output, Affine(scale, zero), state.tensors[source].dtype)
    return [q.QSlice(node.name, node.inputs, node.outputs, node.begin)]


def spread(state: State, node: f.Spread) -> list[Node]:
    """Gaps of zero points, at the input's scale."""
    state.store(node.output, state.affine[node.inputs[0]])
    return [q.QSpread(node.name, node.inputs, node.outputs, node.stride, node.pad)]


def constant(state: State, node: f.Constant) -> list[Node]:
    """All of its values at one scale: none is cut off."""
    low, high = min(float(node.values.min()), 0.0), max(float(node.values.max()), 0.0)
    a = affine(np.asarray([low]), np.asarray([max(high, low + 1e-30)]))
    state.store(node.output, a)
    values = np.clip(np.rint(node.values / a.scale + a.zero_point), -128, 127)
    return [q.QConstant(node.name, (), node.outputs, values.astype(np.int8))]


def product(state: State, node: f.Multiply, result: Affine, clamp: tuple[int, int]) -> list[Node]:
    """Two int8 tensors multiplied exactly and rounded once.

    Args:
        result: of the product, one scale.
        clamp: least and greatest integer.

    Raises:
        Mnv3cError: an operand has one scale a channel, or the product needs a larger shift than there is.
    """
    operands = [state.affine[i] for i in node.inputs]
    if any(len(a.scale) > 1 or len(a.zero_point) > 1 for a in operands):
        raise Mnv3cError("multiplies a tensor of one scale a channel", node.name)
    if any(state.tensors[i].dtype != "int8" for i in node.inputs):
        raise Mnv3cError("multiplies by something that is not stored in 8 bits", node.name)
    ratio = float(operands[0].scale[0] * operands[1].scale[0] / result.scale[0])
    multiplier, shift = quantize_multiplier(np.asarray([ratio]))
    if shift > 14:
        raise Mnv3cError("the product is much narrower than its operands", node.name)
    state.store(node.output, result)
    zeros = [int(np.rint(a.zero_point[0])) for a in operands]
    offset = int(np.rint(result.zero_point[0]))
    return [
        q.QMultiply(
            node.name,
            node.inputs,
            (node.output,),
            (zeros[0], zeros[1]),
            int(multiplier[0]),
            shift,
            offset,
            *clamp,
        )
    ]


def average_pool(state: State, node: f.Pool, result: Affine, coarsest: float) -> list[Node]:
    """Means over windows of any size.

    Args:
        result: of the means.
        coarsest: the largest unit of a sum, in units of the result, that the multiplier can take.

    Raises:
        Mnv3cError: the sums do not fit 32 bits.
    """
    data = node.inputs[0]
    channels = state.source.tensor(data).shape[2]
    area = node.kernel[0] * node.kernel[1]
    x = state.affine[data]
    scale = np.broadcast_to(x.scale, channels) / area
    result = Affine(np.maximum(result.scale, scale.max() / coarsest), result.zero_point)
    multiplier, shift = quantize_multiplier(np.broadcast_to(scale / result.scale, channels))
    zero = np.broadcast_to(x.zero_point, channels) * area
    bias = np.rint(result.zero_point * result.scale / scale - zero)
    if not np.all(np.ldexp(np.abs(bias) + 128.0 * area, shift) < 2.0**31):
        raise Mnv3cError("too large a window for a 32-bit sum", node.name)
    state.store(node.output, result)
    return [
        q.QAveragePool(
            node.name,
            node.inputs,
            node.outputs,
            node.kernel,
            node.stride,
            bias.astype(np.int32),
            q.Requant(multiplier, shift),
            node.pad,
            node.count_include_pad,
        )
    ]
