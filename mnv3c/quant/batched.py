"""Both executors again, for many images at once: `(N, H, W, C)` arrays and matrix products.

Calibration and scoring run whole batches; the one-image executors in `mnv3c/reference` stay the
definition, and `tests/quant/test_batched.py` holds these to them (the integer one bit for bit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from mnv3c.reference import floating, integer
from mnv3c.reference.arithmetic import I64

# What looks at more than one pixel, or counts axes from the front.
_ONE_IMAGE = (
    q.QMaxPool,
    q.QResize,
    q.QAveragePool,
    q.QWindowMean,
    q.QConcat,
    q.QSlice,
    q.QSpread,
    q.QDetect,
)
_CHUNK_ELEMENTS = 1 << 18  # of a temporary array: about what stays in a cache


def chunks(count: int, elements_each: int) -> Iterator[slice]:
    """Slices of a batch of `count` that keep temporaries of `elements_each` an image small."""
    step = max(1, _CHUNK_ELEMENTS // max(1, elements_each))
    return (slice(i, i + step) for i in range(0, count, step))


def patches(node: f.Conv2d | q.QConv, x: np.ndarray, pad_value: np.ndarray | float) -> np.ndarray:
    """The windows of a convolution: a view `[N, out_h, out_w, kernel_h, kernel_w, C]` of the padded batch."""
    top, left, bottom, right = node.pad
    if any(node.pad):
        count, height, width, channels = x.shape
        padded = np.empty((count, height + top + bottom, width + left + right, channels), x.dtype)
        padded[...] = pad_value
        padded[:, top : top + height, left : left + width] = x
        x = padded
    kernel = node.weight.shape[1:3]
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, node.dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(1, 2))
    view = view[:, :: node.stride[0], :: node.stride[1], :, :: node.dilation[0], :: node.dilation[1]]
    return view.transpose(0, 1, 2, 4, 5, 3)


def is_depthwise(node: f.Conv2d | q.QConv) -> bool:
    """One input and one output channel a group, and more than one group."""
    return node.groups > 1 and node.groups == node.weight.shape[0] and node.weight.shape[3] == 1


def convolve(
    node: f.Conv2d | q.QConv, x: np.ndarray, pad_value: np.ndarray | float = 0.0, *, wide: bool = False
) -> np.ndarray:
    """Convolution of a batch without its bias, `[N, out_h, out_w, out]`, in the float type of `x`.

    Exact for integers in `x` and the weights as long as every sum stays below 2**24 (float32) or
    2**53 (float64).

    Args:
        wide: sum in float64 and round once. The order in which a matrix product adds differs by CPU and
            library; rounded from float64 the results do not, so that a compiled network has the same
            bytes everywhere.
    """
    out, kh, kw, per_group = node.weight.shape
    kind = np.dtype(np.float64) if wide and not is_depthwise(node) else x.dtype
    weight = node.weight.astype(kind)
    parts = []
    for chunk in chunks(len(x), x[0].size * (kh * kw if per_group > 1 else 1)):
        view = patches(node, x[chunk], pad_value)
        if is_depthwise(node):
            acc = view[:, :, :, 0, 0] * weight[:, 0, 0, 0]
            for tap in range(1, kh * kw):
                acc += view[:, :, :, tap // kw, tap % kw] * weight[:, tap // kw, tap % kw, 0]
            parts.append(acc)
            continue
        count, height, width = view.shape[:3]
        step = out // node.groups
        groups = [
            view[..., g * per_group : (g + 1) * per_group].reshape(count * height * width, -1).astype(kind)
            @ weight[g * step : (g + 1) * step].reshape(step, -1).T
            for g in range(node.groups)
        ]
        product = np.concatenate(groups, axis=1).astype(x.dtype, copy=False)
        parts.append(product.reshape(count, height, width, out))
    return np.concatenate(parts)


def float_node(graph: Graph, node: Node, args: list[np.ndarray]) -> np.ndarray:
    """One node of a float graph on float32 batches."""
    if isinstance(node, f.Conv2d):
        return convolve(node, args[0], wide=True) + node.bias.astype(np.float32)
    if isinstance(node, f.Activation):
        return floating.activation(node, args[0]).astype(np.float32, copy=False)
    if isinstance(node, f.GlobalAveragePool):
        return args[0].mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    if isinstance(node, f.Add):
        return args[0] + args[1]
    if isinstance(node, f.Multiply):
        return args[0] * args[1]
    if isinstance(node, f.Constant):
        return node.values[None]  # for all of a batch
    alone = graph.replace(nodes=(node,), inputs=node.inputs, outputs=node.outputs)
    one = [floating.run(alone, dict(zip(node.inputs, each, strict=True))) for each in zip(*args, strict=True)]
    return np.stack([values[node.output] for values in one])


def integer_node(graph: Graph, node: Node, args: list[np.ndarray]) -> np.ndarray:
    """One primitive node of an integer graph on batches; the dtype is that of its output tensor."""
    tensor = graph.tensor(node.output)
    if isinstance(node, q.ChannelSum):
        return args[0].sum(axis=(1, 2), keepdims=True, dtype=np.int32)
    if isinstance(node, q.QConstant):
        return node.values[None]
    parts = []
    for chunk in chunks(max(map(len, args)), max(tensor.elements, args[0][0].size)):
        part = [a[chunk] if len(a) > 1 else a for a in args]
        if isinstance(node, q.QConv):
            acc = accumulate(graph, node, part[0])
            parts.append(integer.requantize(acc, node.requant, tensor.dtype).astype(tensor.dtype))
        elif isinstance(node, _ONE_IMAGE):
            parts += [_execute(graph, node, list(each))[None] for each in zip(*part, strict=True)]
        else:  # element-wise, so the one-image rule broadcasts over the batch
            parts.append(_execute(graph, node, part))
    return np.concatenate(parts)


def accumulate(graph: Graph, node: q.QConv, x: np.ndarray) -> np.ndarray:
    """Exact int64 accumulators of a convolution over an int8 or int16 batch, bias included."""
    _, kh, kw, per_group = node.weight.shape
    reach = 128 if x.dtype == np.int8 else 32768
    kind = np.float32 if kh * kw * per_group * reach * 127 < 2**24 else np.float64
    quant = graph.tensor(node.inputs[0]).quant
    zero_point = np.asarray(quant.zero_point if quant else 0, kind)
    return convolve(node, x.astype(kind), zero_point).astype(I64) + node.bias


def _execute(graph: Graph, node: Node, args: list[np.ndarray]) -> np.ndarray:
    values = dict(zip(node.inputs, args, strict=True))
    integer.execute(graph, node, values)
    return values[node.output]


def run_float(graph: Graph, x: np.ndarray) -> np.ndarray:
    """First output of a float graph of one input, for a float32 batch."""
    return _run(graph, x, float_node)


def trace_float(graph: Graph, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a float graph in the order of execution; each is forgotten after its last use."""
    values = {graph.inputs[0]: x}
    yield graph.inputs[0], x
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        values[node.output] = float_node(graph, node, [values[name] for name in node.inputs])
        yield node.output, values[node.output]
        for name in set(node.inputs):
            if last[name] == i:
                del values[name]


def run_integer(graph: Graph, x: np.ndarray) -> np.ndarray:
    """First output of a primitive integer graph of one input, for a batch of the input's dtype."""
    return _run(graph, x, integer_node)


def _run(
    graph: Graph, x: np.ndarray, execute: Callable[[Graph, Node, list[np.ndarray]], np.ndarray]
) -> np.ndarray:
    values = {graph.inputs[0]: x}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        values[node.output] = execute(graph, node, [values[name] for name in node.inputs])
        for name in set(node.inputs) - set(graph.outputs):
            if last[name] == i:
                del values[name]
    return values[graph.outputs[0]]
