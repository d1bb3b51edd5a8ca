"""NumPy meaning of the operators that move or interpolate pixels, for both graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from mnv3c.ir.positions import positions
from mnv3c.reference.arithmetic import I64, rdmulh16, sat16
from mnv3c.reference.requantize import requantize
from mnv3c.reference.windows import windows


def resize_float(graph: Graph, node: f.Resize, x: np.ndarray) -> np.ndarray:
    """``(H, W, C)`` float32 to the height and width of the node's output."""
    out = graph.tensor(node.output).shape
    rows, columns = (positions(x.shape[i], out[i], node.coordinates) for i in range(2))
    if node.kind == "nearest":
        return x[rows.nearest(node.rounding)][:, columns.nearest(node.rounding)]
    (top, v), (left, u) = rows.fractions(), columns.fractions()
    wide = x.astype(np.float64)
    lines = wide[:, left] * (1 - u)[None, :, None] + wide[:, columns.above(left)] * u[None, :, None]
    return lines[top] * (1 - v)[:, None, None] + lines[rows.above(top)] * v[:, None, None]


def transposed_conv(node: f.TransposedConv2d, x: np.ndarray) -> np.ndarray:
    """As the convolution with the kernel turned round over pixels set apart by zeros."""
    _, kh, kw, _ = node.weight.shape
    top, left, bottom, right = transposed_pad(node)
    apart = spread(x, node.stride, (top, left, bottom, right), np.zeros(1, x.dtype))
    view = windows(apart, (kh, kw), (1, 1), (0, 0, 0, 0), (1, 1), np.zeros(1))
    flat = view.reshape(*view.shape[:2], -1) @ turned(node.weight).reshape(len(node.weight), -1).T
    return np.asarray(flat + node.bias)


def transposed_pad(node: f.TransposedConv2d) -> tuple[int, int, int, int]:
    """Zeros around the input, set apart, of the plain convolution; negative ones are not allowed."""
    _, kh, kw, _ = node.weight.shape
    top, left, bottom, right = node.pad
    return kh - 1 - top, kw - 1 - left, kh - 1 - bottom, kw - 1 - right


def turned(weight: np.ndarray) -> np.ndarray:
    """``[out, kernel_h, kernel_w, in]`` turned by half a circle."""
    return np.ascontiguousarray(weight[:, ::-1, ::-1])


def spread(
    x: np.ndarray, stride: tuple[int, int], pad: tuple[int, int, int, int], value: np.ndarray
) -> np.ndarray:
    """``QSpread``; ``value`` ``[C]`` or ``[1]`` fills the gaps."""
    height, width, channels = x.shape
    top, left, bottom, right = pad
    inner = ((height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    out = np.empty((inner[0] + top + bottom, inner[1] + left + right, channels), x.dtype)
    out[...] = value
    out[top : top + inner[0] : stride[0], left : left + inner[1] : stride[1]] = x
    return out


def box(graph: Graph, node: f.Slice | q.QSlice, x: np.ndarray) -> np.ndarray:
    """The part of ``x`` that a slice takes."""
    shape = graph.tensor(node.output).shape
    return x[tuple(slice(b, b + n) for b, n in zip(node.begin, shape, strict=True))]


FLOAT_RULES: dict[type[Node], Callable[..., np.ndarray]] = {
    f.Resize: resize_float,
    f.ArgMax: lambda _, node, x: x.argmax(axis=-1, keepdims=True),
    f.Concat: lambda _, node, *x: np.concatenate(x, axis=node.axis),
    f.Slice: box,
    f.Spread: lambda _, node, x: spread(x, node.stride, node.pad, np.zeros(1, x.dtype)),
    f.TransposedConv2d: lambda _, node, x: transposed_conv(node, x),
}


def _zero_point(graph: Graph, name: str) -> np.ndarray:
    quant = graph.tensor(name).quant
    return np.asarray(quant.zero_point if quant else (0,), I64)


def resize(graph: Graph, node: q.QResize, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """Integers of ``args[0]`` interpolated; exact as numerics.md says."""
    del dtype
    return interpolate(node, args[0], graph.tensor(node.output).shape[:2])


def interpolate(node: q.QResize, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``resize`` to ``size`` (height, width), int64."""
    rows, columns = (positions(x.shape[i], size[i], node.coordinates) for i in range(2))
    if node.kind == "nearest":
        return x[rows.nearest(node.rounding)][:, columns.nearest(node.rounding)]
    (top, v), (left, u) = rows.weights(node.bits), columns.weights(node.bits)
    wide = x.astype(I64)
    a, b = wide[:, left], wide[:, columns.above(left)]
    lines = (a << node.bits) + (b - a) * u[None, :, None]
    a, b = lines[top], lines[rows.above(top)]
    total = (a << node.bits) + (b - a) * v[:, None, None]
    return (total + (1 << (2 * node.bits - 1))) >> (2 * node.bits)


def sigmoid(_: Graph, node: q.QSigmoid, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """int16 in units of 2**-12 to Q15, between table entries."""
    del dtype
    table = np.asarray(node.table, I64)
    at = args[0].astype(I64) + 32768
    i, r = at >> 8, at & 255
    return table[i] + (((table[i + 1] - table[i]) * r + 128) >> 8)


def softmax(_: Graph, node: q.QSoftmax, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """Each run of channels by itself, saturated to ``dtype``."""
    runs = args[0].astype(I64).reshape(*args[0].shape[:-1], node.groups, -1)
    below = runs.max(axis=-1, keepdims=True) - runs
    total = np.asarray(node.table, I64)[below].sum(axis=-1, keepdims=True)
    out = (np.asarray(node.scaled, I64)[below] + total // 2) // total + node.offset
    limits = np.iinfo(dtype)
    return np.clip(out, limits.min, limits.max).reshape(args[0].shape)


def add16(_: Graph, node: q.QAdd16, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """Sum of int16 operands at their own scales."""
    del dtype
    a, b = (rdmulh16(x, np.asarray(m)) for x, m in zip(args, node.multipliers, strict=True))
    return sat16(a + b)


def _window_sums(
    x: np.ndarray, node: q.QAveragePool | q.QWindowMean, pad_value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of every window with ``pad_value`` on padding, int64 ``[H, W, C]``, and its taps inside."""
    args = (node.kernel, node.stride, node.pad, (1, 1))
    total = windows(x.astype(I64), *args, pad_value.astype(I64)).sum(axis=(2, 3))
    ones = np.ones((*x.shape[:2], 1), I64)
    return total, windows(ones, *args, np.zeros(1, I64)).sum(axis=(2, 3))


def average_pool(graph: Graph, node: q.QAveragePool, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """Window means, requantised."""
    area = node.kernel[0] * node.kernel[1]
    if node.count_include_pad:
        total, _ = _window_sums(args[0], node, _zero_point(graph, node.inputs[0]))
    else:
        total, count = _window_sums(args[0], node, np.zeros(1))
        total = (2 * total * area + count) // (2 * count)
    return requantize(total + node.bias, node.requant, dtype)


def window_mean(_: Graph, node: q.QWindowMean, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """Window means at the same scale."""
    del dtype
    total, count = _window_sums(args[0], node, np.zeros(1))
    size = np.abs(total) if node.away else total
    mean = (2 * size + count) // (2 * count)
    return np.clip(np.sign(total) * mean if node.away else mean, node.low, node.high)


def argmax(_: Graph, node: q.QArgMax, args: list[np.ndarray], dtype: str) -> np.ndarray:
    """The first of the greatest channels."""
    del node, dtype
    return args[0].argmax(axis=-1, keepdims=True)


def _spread(graph: Graph, node: q.QSpread, args: list[np.ndarray], dtype: str) -> np.ndarray:
    del dtype
    return spread(args[0], node.stride, node.pad, _zero_point(graph, node.inputs[0]))


INTEGER_RULES: dict[type[Node], Callable[..., np.ndarray]] = {
    q.QResize: resize,
    q.QSigmoid: sigmoid,
    q.QSoftmax: softmax,
    q.QAdd16: add16,
    q.QAveragePool: average_pool,
    q.QWindowMean: window_mean,
    q.QArgMax: argmax,
    q.QConcat: lambda _, node, args, dtype: np.concatenate(args, axis=node.axis),
    q.QSlice: lambda graph, node, args, dtype: box(graph, node, args[0]),
    q.QSpread: _spread,
}
