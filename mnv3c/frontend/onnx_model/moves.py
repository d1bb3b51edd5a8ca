"""Resize, ArgMax, Concat, Slice, Split and ConvTranspose in canonical form."""

from __future__ import annotations

import math

import numpy as np

from mnv3c.frontend.onnx_model import fold
from mnv3c.frontend.onnx_model.graph import Constant, Known, Node, Output, Value

_MODES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(node: Node, out: Output) -> Known:
    """Resize (and the older Upsample) of height and width, nearest or linear."""
    x = node.value()
    if len(x.shape) != 4:
        raise node.error(f"input of shape {list(x.shape)}; [1, C, H, W] is needed")
    mode = node.text("mode", "nearest")
    old = node.op == "Upsample" or node.opset < 11
    coordinates = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
    size, scales = _size(node, x)
    if mode not in ("nearest", "linear") or coordinates not in _MODES or nearest not in _NEAREST:
        raise node.error(f"mode {mode}, {coordinates}, {nearest} is not supported")
    if node.integer("antialias", 0):
        raise node.error("antialias is not supported")
    if coordinates == "pytorch_half_pixel" and 1 in size:
        raise node.error("pytorch_half_pixel to a single pixel is not supported")
    exact = all(abs(s * n - m) < 1e-3 for s, n, m in zip(scales, x.shape[2:], size, strict=True))
    if coordinates != "align_corners" and not exact:
        raise node.error(f"scales {scales} that give no whole size are not supported")
    if coordinates in ("pytorch_half_pixel", "half_pixel_symmetric"):
        coordinates = "half_pixel"  # the same where the scale is exact
    shape = (*x.shape[:2], *size)
    if shape == x.shape:
        return x
    return out.emit(
        node,
        "Resize",
        [x.name, "", "", out.constant(np.asarray(shape, np.int64))],
        shape,
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode=nearest,
    )


def _size(node: Node, x: Value) -> tuple[tuple[int, int], list[float]]:
    """Height and width of the output, and the scales that the file gives."""
    index = 2 if node.op == "Resize" and node.opset >= 11 else 1
    if node.integers("axes", [2, 3]) not in ([2, 3], [0, 1, 2, 3]):
        raise node.error("resizes other axes than height and width")
    first = 0 if node.has("axes") and len(node.integers("axes", [])) == 2 else 2
    if index == 2 and node.optional(3) is not None and node.array(3).size:
        sizes = node.integers_of(3)
        if len(sizes) != 4 - (2 - first) or (first and sizes[:2] != list(x.shape[:2])):
            raise node.error(f"sizes {sizes}")
        height, width = sizes[first:]
        return (height, width), [height / x.shape[2], width / x.shape[3]]
    if node.op == "Upsample" and node.opset < 9:
        scales = node.reals("scales")
    else:
        scales = [float(s) for s in node.numbers(index).ravel()]
    wrong = len(scales) != 2 + first or (first and scales[:2] != [1.0, 1.0])
    if wrong or not all(0 < s < 2**10 for s in scales):
        raise node.error(f"scales {scales[:6]}")
    vertical, horizontal = scales[first:]
    size = (math.floor(x.shape[2] * vertical + 1e-4), math.floor(x.shape[3] * horizontal + 1e-4))
    return size, [vertical, horizontal]


def argmax(node: Node, out: Output) -> Known:
    """ArgMax that takes the first of equals."""
    x = node.value()
    axis = node.axis(node.integer("axis", 0), len(x.shape))
    if node.integer("select_last_index", 0):
        raise node.error("select_last_index is not supported")
    shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
    best = out.emit(node, "ArgMax", [x.name], shape, axis=axis, keepdims=1)
    if node.integer("keepdims", 1):
        return best
    rest = [n for i, n in enumerate(x.shape) if i != axis]
    return out.emit(node, "Reshape", [best.name, out.constant(np.asarray(rest, np.int64))], rest)


def concat(node: Node, out: Output) -> Known:
    """Concat of tensors; of constants it is shape arithmetic."""
    if all(isinstance(i, Constant) for i in node.inputs):
        return fold.concat(node, out)
    values = [node.value(i) for i in range(len(node.inputs))]
    rank = len(values[0].shape)
    axis = node.axis(node.integer("axis", 1), rank)
    rest = {tuple(n for i, n in enumerate(v.shape) if i != axis) for v in values}
    if any(len(v.shape) != rank for v in values) or len(rest) != 1:
        raise node.error(f"operands of shapes {[list(v.shape) for v in values]}")
    if len(values) == 1:
        return values[0]
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    return out.emit(node, "Concat", [v.name for v in values], shape, axis=axis)


def slice_(node: Node, out: Output) -> Known:
    """Slice with steps of one; of a constant it is shape arithmetic."""
    if isinstance(node.input(0), Constant):
        return fold.slice_(node, out)
    x = node.value()
    if node.opset < 10:
        starts, ends = node.integers("starts", []), node.integers("ends", [])
        axes, steps = node.integers("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = node.integers_of(1), node.integers_of(2)
        axes = node.integers_of(3) if node.optional(3) is not None else list(range(len(starts)))
        steps = node.integers_of(4) if node.optional(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or any(s != 1 for s in steps):
        raise node.error(f"starts {starts}, ends {ends}, steps {steps}")
    box = [(0, n) for n in x.shape]
    for start, end, axis in zip(starts, ends, axes, strict=True):
        at = node.axis(axis, len(x.shape))
        low, high, _ = slice(start, end).indices(x.shape[at])
        box[at] = (low, high)
    return _box(node, out, x, box)


def _box(node: Node, out: Output, x: Value, box: list[tuple[int, int]]) -> Value:
    shape = [high - low for low, high in box]
    if tuple(shape) == x.shape:
        return x
    axes = [i for i, n in enumerate(shape) if n != x.shape[i]]
    parts = [[box[i][0] for i in axes], [box[i][1] for i in axes], axes, [1] * len(axes)]
    names = [out.constant(np.asarray(p, np.int64)) for p in parts]
    return out.emit(node, "Slice", [x.name, *names], shape)


def split(node: Node, out: Output) -> list[Known]:
    """Split as one slice for each output."""
    x = node.value()
    axis = node.axis(node.integer("axis", 0), len(x.shape))
    count = len(node.proto.output)
    if node.opset >= 13 and node.optional(1) is not None:
        sizes = node.integers_of(1)
    else:
        step = -(-x.shape[axis] // count)
        default = [step] * (count - 1) + [x.shape[axis] - step * (count - 1)]
        sizes = node.integers("split", default)
    if len(sizes) != count or sum(sizes) != x.shape[axis] or min(sizes) < 1:
        raise node.error(f"parts of {sizes} of {x.shape[axis]}")
    results: list[Known] = []
    start = 0
    for size in sizes:
        box = [(0, n) for n in x.shape]
        box[axis] = (start, start + size)
        results.append(_box(node, out, x, box))
        start += size
    return results


def conv_transpose(node: Node, out: Output) -> Known:
    """ConvTranspose of one group without dilation."""
    x, weight = node.value(), node.numbers(1)
    if len(x.shape) != 4 or weight.ndim != 4 or weight.shape[0] != x.shape[1]:
        raise node.error(f"weights {list(weight.shape)} do not fit {list(x.shape)}")
    if node.integer("group", 1) != 1 or node.pair("dilations", low=1) != (1, 1):
        raise node.error("groups and dilation are not supported")
    if node.has("output_shape") or node.text("auto_pad", "NOTSET") not in ("", "NOTSET", "VALID"):
        raise node.error("output_shape and auto_pad are not supported; explicit pads are")
    stride = node.pair("strides", low=1)
    more = node.pair("output_padding", low=0) if node.has("output_padding") else (0, 0)
    pads = node.integers("pads", [0, 0, 0, 0])
    kernel = weight.shape[2:]
    if len(pads) != 4 or any(not 0 <= p < k for p, k in zip(pads, kernel * 2, strict=True)):
        raise node.error(f"pads {pads} for a window of {list(kernel)}")
    size = [(x.shape[i + 2] - 1) * stride[i] + kernel[i] - pads[i] - pads[i + 2] + more[i] for i in range(2)]
    names = [x.name, out.constant(weight)]
    if node.optional(2) is not None:
        names.append(out.constant(node.numbers(2)))
    return out.emit(
        node,
        "ConvTranspose",
        names,
        (1, weight.shape[1], *size),
        kernel_shape=list(kernel),
        strides=stride,
        pads=pads,
        output_padding=more,
    )
