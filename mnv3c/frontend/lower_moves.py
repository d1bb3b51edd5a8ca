"""Float graph nodes of Relax calls that move or interpolate pixels, and of constants.

These calls are not made composites: each is one operator of the float graph as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import array, is_constant, shape_of
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Node

Fields = dict[str, Any]
# Relax's dimensions, [1, C, H, W], as axes of the graph's (H, W, C).
_AXES = {1: 2, 2: 0, 3: 1}
_COORDINATES = {
    "align_corners": "align_corners",
    "half_pixel": "half_pixel",
    "pytorch_half_pixel": "half_pixel",
    "asymmetric": "asymmetric",
}
_ROUNDINGS = {
    "": "half_down",
    "floor": "floor",
    "ceil": "ceil",
    "round_prefer_floor": "half_down",
    "round_prefer_ceil": "half_up",
    "round": "half_down",
}


def _resize(call: Any) -> tuple[type[Node], Fields]:
    attrs = call.attrs
    kinds = {"linear": "bilinear", "nearest_neighbor": "nearest"}
    mode, coordinates = str(attrs.method), str(attrs.coordinate_transformation_mode)
    if mode not in kinds or coordinates not in _COORDINATES:
        raise Mnv3cError(f"interpolation {mode} with {coordinates} is not supported", "resize")
    return f.Resize, {
        "kind": kinds[mode],
        "coordinates": _COORDINATES[coordinates],
        "rounding": _ROUNDINGS[str(attrs.rounding_method)] if mode == "nearest_neighbor" else "floor",
    }


def _integers(value: Any) -> list[int]:
    if is_constant(value):
        return [int(v) for v in array(value).ravel()]
    fields = value.values if hasattr(value, "values") else value.fields
    return [int(getattr(v, "value", v)) for v in fields]


def _slice(call: Any) -> tuple[type[Node], Fields]:
    axes, begin = _integers(call.args[1]), _integers(call.args[2])
    strides = _integers(call.args[4]) if len(call.args) > 4 else [1] * len(axes)
    if any(s != 1 for s in strides):
        raise Mnv3cError(f"steps of {strides} are not supported", "slice")
    start = [0, 0, 0]
    dims = shape_of(call.args[0])
    for axis, first in zip(axes, begin, strict=True):
        axis %= 4
        low = min(first + dims[axis] if first < 0 else first, dims[axis])
        if axis == 0 and low:
            raise Mnv3cError("takes another image than the first", "slice")
        if axis:
            start[_AXES[axis]] = low
    return f.Slice, {"begin": (start[0], start[1], start[2])}


def _concat(call: Any) -> tuple[type[Node], Fields]:
    return f.Concat, {"axis": _AXES[int(call.attrs.axis) % 4]}


def _transposed(call: Any) -> tuple[type[Node], Fields]:
    attrs = call.attrs
    weight = array(call.args[1]).astype(np.float32)  # [in, out, kernel_h, kernel_w]
    top, left, bottom, right = (int(p) for p in attrs.padding)
    more = [int(p) for p in attrs.output_padding]
    if int(attrs.groups) != 1 or any(int(d) != 1 for d in attrs.dilation):
        raise Mnv3cError("groups and dilation are not supported", "transposed convolution")
    if bottom < more[0] or right < more[1]:
        raise Mnv3cError(f"output padding {more} is not supported", "transposed convolution")
    return f.TransposedConv2d, {
        "weight": np.ascontiguousarray(weight.transpose(1, 2, 3, 0)),
        "bias": np.zeros(weight.shape[1], np.float32),
        "stride": (int(attrs.strides[0]), int(attrs.strides[1])),
        "pad": (top, left, bottom - more[0], right - more[1]),
    }


def _constant(call: Any) -> tuple[type[Node], Fields]:
    """A constant that ``relax_passes.arithmetic`` made a tensor of its own."""
    values = array(call.args[0]).astype(np.float32)[0]
    return f.Constant, {"values": np.ascontiguousarray(values.transpose(1, 2, 0))}


def _pad(call: Any) -> tuple[type[Node], Fields]:
    widths = [int(p) for p in call.attrs.pad_width]
    return f.Spread, {"pad": (widths[4], widths[6], widths[5], widths[7])}


CALLS: dict[str, Callable[[Any], tuple[type[Node], Fields]]] = {
    "relax.image.resize2d": _resize,
    "relax.argmax": lambda _: (f.ArgMax, {}),
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.nn.conv2d_transpose": _transposed,
    "relax.nn.pad": _pad,
    "relax.reshape": _constant,
}


def operands(call: Any) -> list[Any]:
    """The tensors that such a call reads."""
    first = call.args[0]
    if is_constant(first):
        return []
    return list(first.fields) if hasattr(first, "fields") else [first]
