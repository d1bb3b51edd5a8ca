"""Convolution, batch norm, padding and pooling in canonical form: explicit padding, checked shapes."""

from __future__ import annotations

import math

import numpy as np

from mnv3c.frontend.onnx_model.graph import Known, Node, Output, Pads, Shape, Value
from mnv3c.reference.windows import window_output_size


def conv(node: Node, out: Output) -> Known:
    """Conv: 2-D, constant weights, any stride, padding, dilation and groups."""
    source = node.input(0)
    if not isinstance(source, Value):
        raise node.error("the input is constant")
    _need_map(node, source)
    weight = node.numbers(1)
    if weight.ndim != 4 or weight.size == 0:
        raise node.error(f"weights of shape {list(weight.shape)}; only 2-D convolution is supported")
    outputs, per_group, height, width = weight.shape
    groups = node.integer("group", 1)
    if groups < 1 or per_group * groups != source.shape[1] or outputs % groups:
        raise node.error(
            f"weights {list(weight.shape)} in {groups} groups do not fit {source.shape[1]} input channels"
        )
    if node.integers("kernel_shape", [height, width]) != [height, width]:
        raise node.error(f"kernel_shape does not fit weights of shape {list(weight.shape)}")
    stride, dilation = node.pair("strides", low=1), node.pair("dilations", low=1)
    own = _pads(node, _without_pads(source), (height, width), stride, dilation)
    if any(source.pads) and node.text("auto_pad", "NOTSET").startswith("SAME"):
        raise node.error("auto_pad behind Pad is not supported")
    pads = _sum(own, source.pads)
    inputs = [source.name, out.constant(weight)]
    if node.optional(2) is not None:
        bias = node.numbers(2)
        if bias.shape != (outputs,):
            raise node.error(f"bias of shape {list(bias.shape)} for {outputs} outputs")
        inputs.append(out.constant(bias))
    size = window_output_size(_size(_without_pads(source)), (height, width), stride, pads, dilation)
    return out.emit(
        node,
        "Conv",
        inputs,
        (1, outputs, *size),
        kernel_shape=[height, width],
        strides=stride,
        dilations=dilation,
        pads=pads,
        group=groups,
    )


def batch_norm(node: Node, out: Output) -> Known:
    """BatchNormalization for inference."""
    x = node.value()
    if node.integer("training_mode", 0) or any(node.proto.output[1:]):
        raise node.error("training mode is not supported")
    if len(x.shape) < 2 or not node.integer("spatial", 1):
        raise node.error(f"input of shape {list(x.shape)}")
    parameters = [node.numbers(i) for i in range(1, 5)]
    epsilon = node.real("epsilon", 1e-5)
    if any(p.shape != (x.shape[1],) for p in parameters):
        shapes = ", ".join(str(list(p.shape)) for p in parameters)
        raise node.error(f"parameters of shapes {shapes} for {x.shape[1]} channels")
    if not bool((parameters[3] + epsilon > 0).all()):
        raise node.error("variance plus epsilon is not positive")
    names = [out.constant(p) for p in parameters]
    return out.emit(node, "BatchNormalization", [x.name, *names], x.shape, epsilon=epsilon)


def pad(node: Node, out: Output) -> Known:
    """Pad with zeros around height and width; a convolution behind it takes the zeros."""
    x = node.value()
    if node.text("mode", "constant") != "constant":
        raise node.error("only padding with zero is supported")
    rank = len(x.shape)
    amounts = node.integers("pads", []) if node.opset < 11 else node.integers_of(1)
    fill = node.real("value", 0.0)
    if node.opset >= 11 and node.optional(2) is not None and node.array(2).size:
        fill = float(node.array(2).reshape(-1)[0])
    axes = list(range(rank))
    if node.opset >= 18 and node.optional(3) is not None:
        axes = [node.axis(a, rank) for a in node.integers_of(3)]
    if len(amounts) != 2 * len(axes):
        raise node.error(f"pads {amounts} for {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[i + len(axes)]
    if any(not 0 <= p < 2**15 for p in amounts):
        raise node.error(f"pads are {amounts}")
    if not any(amounts):
        return x
    if rank != 4 or any(before[:2] + after[:2]) or fill != 0.0:
        raise node.error("only zeros around height and width are supported")
    pads = (before[2], before[3], after[2], after[3])
    shape = (*x.shape[:2], x.shape[2] + pads[0] + pads[2], x.shape[3] + pads[1] + pads[3])
    return Value(x.name, shape, pads)


def average_pool(node: Node, out: Output) -> Known:
    return _pool(node, out, count_include_pad=int(bool(node.integer("count_include_pad", 0))))


def max_pool(node: Node, out: Output) -> Known:
    if len(node.proto.output) > 1 and node.proto.output[1]:
        raise node.error("indices of a max pool are not supported")
    return _pool(node, out)


def _pool(node: Node, out: Output, **extra: int) -> Known:
    x = node.value()
    _need_map(node, x)
    kernel, stride = node.pair("kernel_shape", low=1), node.pair("strides", low=1)
    if not node.has("kernel_shape"):
        raise node.error("kernel_shape is missing")
    if node.pair("dilations", low=1) != (1, 1):
        raise node.error("dilated pooling is not supported")
    pads = _pads(node, x.shape, kernel, stride, (1, 1))
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        raise node.error(f"padding {list(pads)} for a window of {list(kernel)}")
    size = window_output_size(_size(x.shape), kernel, stride, pads)
    rest = [(n + pads[i] + pads[i + 2] - kernel[i]) % stride[i] for i, n in enumerate(x.shape[2:])]
    if node.integer("ceil_mode", 0) and any(rest):
        raise node.error("ceil_mode that adds a partial window is not supported")
    shape = (*x.shape[:2], *size)
    return out.emit(node, node.op, [x.name], shape, kernel_shape=kernel, strides=stride, pads=pads, **extra)


def global_average_pool(node: Node, out: Output) -> Known:
    x = node.value()
    _need_map(node, x)
    return out.emit(node, "GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))


def _need_map(node: Node, x: Value) -> None:
    if len(x.shape) != 4:
        raise node.error(f"input of shape {list(x.shape)}; [1, C, H, W] is needed")


def _size(shape: Shape) -> tuple[int, int]:
    return shape[2], shape[3]


def _without_pads(x: Value) -> Shape:
    top, left, bottom, right = x.pads
    return (*x.shape[:2], x.shape[2] - top - bottom, x.shape[3] - left - right)


def _sum(a: Pads, b: Pads) -> Pads:
    top, left, bottom, right = (int(v) for v in np.add(a, b))
    return top, left, bottom, right


def _pads(
    node: Node, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Pads:
    """Explicit padding (top, left, bottom, right) of a window, from ``pads`` or ``auto_pad``."""
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("", "NOTSET"):
        pads = node.integers("pads", [0, 0, 0, 0])
        if len(pads) != 4 or not all(0 <= p < 2**15 for p in pads):
            raise node.error(f"attribute pads is {pads}")
        return pads[0], pads[1], pads[2], pads[3]
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"auto_pad {mode!r} is unknown")
    sides = []
    for size, k, s, d in zip(shape[2:], kernel, stride, dilation, strict=True):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        low, high = total // 2, total - total // 2
        sides.append((low, high) if mode == "SAME_UPPER" else (high, low))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
