"""Executor of the integer graph. Exact: the meaning of every operator in ``docs/numerics.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.reference.arithmetic import I64, rdmulh16, rdmulh32, rounding_shift_right, sat8, sat16
from mnv3c.reference.detect import detect
from mnv3c.reference.requantize import requantize as requantize
from mnv3c.reference.requantize import second_rounding
from mnv3c.reference.spatial import INTEGER_RULES, interpolate
from mnv3c.reference.windows import windows

Values = dict[str, np.ndarray]


def run(graph: Graph, inputs: Mapping[str, np.ndarray], *, keep: bool = False) -> Values:
    """Execute ``graph``.

    Args:
        inputs: name to array of the tensor's shape and dtype.
        keep: return every tensor, not only the outputs.

    Raises:
        ValueError: an input is missing or of the wrong shape or dtype.
    """
    values: Values = {}
    for name in graph.inputs:
        want = graph.tensor(name)
        got = inputs.get(name)
        if got is None or got.shape != want.shape or got.dtype != np.dtype(want.dtype):
            raise ValueError(f"input {name} must be {want.dtype} {want.shape}")
        values[name] = got
    for node in graph.nodes:
        execute(graph, node, values)
    return values if keep else {name: values[name] for name in graph.outputs}


def execute(graph: Graph, node: Node, values: Values, between: str = "int16") -> None:
    """Run one node: reads its inputs from ``values`` and writes its outputs there.

    ``between`` is the dtype of an output that the graph has no tensor for: it is inside a fused node.
    """
    if isinstance(node, q.FusedConv):
        inner = dict(values)
        # A table is the one activation that reads 8 bits.
        between = "int8" if isinstance(node.activation, q.QLut) else "int16"
        for part in node.parts:
            execute(graph, part, inner, between)
        values.update({name: inner[name] for name in node.outputs})
        return
    if isinstance(node, q.FusedResizeArgMax):
        size = graph.tensor(node.output).shape[:2]
        scores = interpolate(node.resize, values[node.inputs[0]], size)
        values[node.output] = scores.argmax(axis=-1, keepdims=True).astype(np.uint8)
        return
    if isinstance(node, q.QDetect):
        values.update(zip(node.outputs, detect(node, [values[i] for i in node.inputs]), strict=True))
        return
    tensor = graph.tensors.get(node.output)
    dtype = tensor.dtype if tensor else between
    result = _RULES[type(node)](graph, node, [values[i] for i in node.inputs], dtype)
    values[node.output] = result.astype(dtype)


def _pad_value(tensor: Tensor) -> np.ndarray:
    zero_point = tensor.quant.zero_point if tensor.quant else (0,)
    return np.asarray(zero_point, tensor.dtype)


def accumulate(node: q.QConv, x: np.ndarray, pad_value: np.ndarray) -> np.ndarray:
    """Exact accumulators of a convolution, int64 ``[out_h, out_w, out]``, bias included.

    The sums are exact in floating point: every partial sum is an integer below 2**53.
    """
    view = windows(x, node.kernel, node.stride, node.pad, node.dilation, pad_value)
    height, width = view.shape[:2]
    out, kh, kw, per_group = node.weight.shape
    if node.depthwise:
        acc = np.einsum("hwyxc,cyx->hwc", view.astype(np.int32), node.weight[..., 0].astype(np.int32))
        return acc.astype(I64) + node.bias
    # Below 2**24 a float32 product of matrices is exact as well, and twice as fast.
    exact32 = x.dtype == np.int8 and kh * kw * per_group * 128 * 255 < 2**24
    kind: Any = np.float32 if exact32 else np.float64
    acc = np.empty((height, width, out), I64)
    step = out // node.groups
    for g in range(node.groups):
        part = view[..., g * per_group : (g + 1) * per_group].reshape(height * width, -1).astype(kind)
        weight = node.weight[g * step : (g + 1) * step].reshape(step, -1).astype(kind)
        acc[..., g * step : (g + 1) * step] = (part @ weight.T).reshape(height, width, step)
    return acc + node.bias


def _conv(graph: Graph, node: q.QConv, args: list[np.ndarray], dtype: str) -> np.ndarray:
    acc = accumulate(node, args[0], _pad_value(graph.tensor(node.inputs[0])))
    return requantize(acc, node.requant, dtype)


def _hard_swish(_: Graph, node: q.QHardSwish, args: list[np.ndarray], dtype: str) -> np.ndarray:
    x = args[0].astype(I64)
    gate = sat16(x << node.shift)
    y = sat16(x + rdmulh16(x, gate))
    return _narrow(sat16(rdmulh16(y, node.multiplier) + node.offset), dtype)


def _narrow(x: np.ndarray, dtype: str, low: int = -128, high: int = 127) -> np.ndarray:
    """16 bits as they are where the output has as many, else saturated to 8 and limited."""
    return x if dtype == "int16" else np.clip(x, low, high)


def _hard_sigmoid(_: Graph, node: q.QHardSigmoid, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.maximum(sat16(args[0].astype(I64) + node.offset), 0)


def _lut(_: Graph, node: q.QLut, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return node.table[args[0].astype(I64) + 128]


def _add(_: Graph, node: q.QAdd, args: list[np.ndarray], dtype: str) -> np.ndarray:
    terms = []
    for a, multiplier in zip(args, node.multipliers, strict=True):
        wide = a.astype(I64) if a.dtype == np.int16 else a.astype(I64) << 8
        in_units = a.dtype == np.int16 and multiplier == 0
        terms.append(wide if in_units else rdmulh16(wide, np.asarray(multiplier)))
    total = sat16(sat16(terms[0] + terms[1]) + node.bias)
    return _narrow(rounding_shift_right(total, node.fraction), dtype, node.low, node.high)


def _add32(_: Graph, node: q.QAdd32, args: list[np.ndarray], dtype: str) -> np.ndarray:
    terms = [a.astype(I64) * m for a, m in zip(args, node.multipliers, strict=True)]
    total = terms[0] + terms[1] + node.bias
    return np.clip(rounding_shift_right(total, node.shift) + node.offset, node.low, node.high)


def _multiply(_: Graph, node: q.QMultiply, args: list[np.ndarray], dtype: str) -> np.ndarray:
    a, b = (x.astype(I64) - z for x, z in zip(args, node.zero_points, strict=True))
    product = rdmulh32((a * b) << node.shift, np.asarray(node.multiplier))
    v = sat16(second_rounding(product, np.asarray(node.right), away=True))
    return np.clip(v + node.offset, node.low, node.high)


def _constant(_: Graph, node: q.QConstant, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return node.values


def _gate(_: Graph, node: q.QGate, args: list[np.ndarray], dtype: str) -> np.ndarray:
    gate = rdmulh16(args[1], node.factor)
    x = (args[0].astype(I64) - node.zero_point) << node.shift
    return _narrow(sat16(rdmulh16(x, gate) + node.offset), dtype, node.low, node.high)


def _channel_sum(_: Graph, node: q.ChannelSum, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return args[0].astype(I64).sum(axis=(0, 1), keepdims=True)


def _requantize(_: Graph, node: q.Requantize, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return requantize(args[0].astype(I64) + node.bias, node.requant, dtype)


def _mean(_: Graph, node: q.QMean, args: list[np.ndarray], dtype: str) -> np.ndarray:
    whole, rest = np.divmod(args[0].astype(I64), node.count)
    up = (2 * rest > node.count) | ((2 * rest == node.count) & ((whole - node.zero_point) % 2 == 1))
    return np.clip(whole + up, node.low, node.high)


def _max_pool(_: Graph, node: q.QMaxPool, args: list[np.ndarray], dtype: str) -> np.ndarray:
    low = np.asarray([-128], np.int8)
    return windows(args[0], node.kernel, node.stride, node.pad, (1, 1), low).max(axis=(2, 3))


def _quantize(_: Graph, node: q.Quantize, args: list[np.ndarray], dtype: str) -> np.ndarray:
    # float32 throughout, as the generated C does it. NaN becomes the zero point.
    scaled = args[0] * np.asarray(node.inverse_scale, np.float32)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=1024.0, neginf=-1024.0)
    rounded = np.rint(np.clip(scaled, -1024.0, 1024.0)).astype(I64)
    return sat8(rounded + np.asarray(node.zero_point, I64))


def _flip_sign(_: Graph, node: q.FlipSign, args: list[np.ndarray], dtype: str) -> np.ndarray:
    return (args[0].view(np.uint8) ^ np.uint8(0x80)).view(np.dtype(dtype))


def _dequantize(_: Graph, node: q.Dequantize, args: list[np.ndarray], dtype: str) -> np.ndarray:
    integer = args[0].astype(np.int32) - np.asarray(node.zero_point, np.int32)
    return integer.astype(np.float32) * np.asarray(node.scale, np.float32)


_RULES: dict[type[Node], Callable[..., np.ndarray]] = {
    q.QConv: _conv,
    q.QHardSwish: _hard_swish,
    q.QHardSigmoid: _hard_sigmoid,
    q.QLut: _lut,
    q.QAdd: _add,
    q.QAdd32: _add32,
    q.QMultiply: _multiply,
    q.QConstant: _constant,
    q.QGate: _gate,
    q.ChannelSum: _channel_sum,
    q.Requantize: _requantize,
    q.QMean: _mean,
    q.QMaxPool: _max_pool,
    q.Quantize: _quantize,
    q.FlipSign: _flip_sign,
    q.Dequantize: _dequantize,
    **INTEGER_RULES,
}
SUPPORTED: tuple[type[Node], ...] = (*_RULES, q.FusedConv, q.FusedResizeArgMax, q.QDetect)
