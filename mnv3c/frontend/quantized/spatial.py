"""Integer nodes of a quantised model's operators that move or interpolate pixels.

As the methods of ``Builder``: every function takes the operands' values and gives the result's, at the
scales of the model.
"""

from __future__ import annotations

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.builder import Builder
from mnv3c.frontend.quantized.values import Affine, Value, Window
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Shape
from mnv3c.ir.softmax import softmax_node

_BITS = 11


def same_scale(x: Value, affine: Affine, place: str) -> None:
    """Raise ``Mnv3cError`` unless the result has the scale of ``x``."""
    if x.affine != affine:
        raise Mnv3cError("changes the scale, which is not supported", place)


def resize(
    b: Builder,
    x: Value,
    size: tuple[int, int],
    *,
    kind: str,
    coordinates: str,
    rounding: str,
    name: str,
) -> Value:
    """Interpolation at the scale of ``x``; nothing at all where the size stays the same."""
    if size == x.shape[:2]:
        return x
    bits = _BITS if kind == "bilinear" else 1
    shape = (*size, x.shape[2])
    return b.emit(
        q.QResize,
        (x,),
        shape,
        x.affine,
        name,
        kind=kind,
        coordinates=coordinates,
        rounding=rounding,
        bits=bits,
    )


def argmax(b: Builder, x: Value, name: str) -> Value:
    """Class numbers, stored as uint8; only an output of the graph may read them."""
    return b.emit(q.QArgMax, (x,), (*x.shape[:2], 1), Affine(1.0, 0), name, dtype="uint8")


def softmax(
    b: Builder, x: Value, affine: Affine, name: str, place: str, *, groups: int = 1, dtype: str = "int8"
) -> Value:
    """Softmax over the channels, or over ``groups`` runs of them, at the scale of ``affine``.

    Raises:
        Mnv3cError: too many channels, or a scale finer than 16 bits; names ``place``.
    """

    def node(own: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> q.QSoftmax:
        return softmax_node(
            own,
            inputs[0],
            outputs[0],
            scale=x.affine.scale,
            classes=x.shape[2] // groups,
            output_scale=affine.scale,
            offset=affine.zero_point,
            groups=groups,
        )

    try:
        return b.emit(node, (x,), x.shape, affine, name, dtype=dtype)
    except Mnv3cError as error:
        raise Mnv3cError(error.message, place) from None


def window_mean(
    b: Builder,
    x: Value,
    kernel: tuple[int, int],
    window: Window,
    *,
    limits: tuple[int, int],
    away: bool,
    name: str,
) -> Value:
    """Average at the scale of ``x``; ``away`` rounds halves away from zero, as int8 kernels do."""
    size = window.output(x.shape[:2], kernel)
    return b.emit(
        q.QWindowMean,
        (x,),
        (*size, x.shape[2]),
        x.affine,
        name,
        kernel=kernel,
        stride=window.stride,
        pad=window.pad,
        away=away,
        low=limits[0],
        high=limits[1],
    )


def max_pool(
    b: Builder, x: Value, kernel: tuple[int, int], window: Window, limits: tuple[int, int], name: str
) -> Value:
    """Maximum over windows, then clamped."""
    size = window.output(x.shape[:2], kernel)
    shape = (*size, x.shape[2])
    best = b.emit(
        q.QMaxPool, (x,), shape, x.affine, name, kernel=kernel, stride=window.stride, pad=window.pad
    )
    return limited(b, best, limits)


def limited(b: Builder, x: Value, limits: tuple[int, int]) -> Value:
    """``x`` within these integers."""
    if limits == (-128, 127):
        return x
    clamped = np.clip(np.arange(-128, 128), *limits).astype(np.int8)
    return b.table(x, clamped, x.affine, f"{x.name}_clamped")


def concat(b: Builder, parts: list[Value], axis: int, affine: Affine, name: str) -> Value:
    """Operands brought to the result's scale, one behind the other."""
    moved = [
        x if x.affine == affine else b.table(x, affine.quantize(x.affine.reals()), affine, f"{name}_part")
        for x in parts
    ]
    shape = list(parts[0].shape)
    shape[axis] = sum(x.shape[axis] for x in parts)
    total: Shape = (shape[0], shape[1], shape[2])
    return b.emit(q.QConcat, tuple(moved), total, affine, name, axis=axis)


def part(b: Builder, x: Value, begin: tuple[int, int, int], shape: Shape, name: str) -> Value:
    """A box of that shape, from ``begin``."""
    return b.emit(q.QSlice, (x,), shape, x.affine, name, begin=begin)


def spread(b: Builder, x: Value, kernel: tuple[int, int], window: Window, name: str) -> Value:
    """What a transposed convolution's kernel, turned round, runs over.

    Args:
        window: ``pad`` is what is cut off the full result.
    """
    (above, left, below, right), stride = window.pad, window.stride
    height, width, channels = x.shape
    pad = (kernel[0] - 1 - above, kernel[1] - 1 - left, kernel[0] - 1 - below, kernel[1] - 1 - right)
    rows = (height - 1) * stride[0] + 1 + pad[0] + pad[2]
    columns = (width - 1) * stride[1] + 1 + pad[1] + pad[3]
    shape = (rows, columns, channels)
    return b.emit(q.QSpread, (x,), shape, x.affine, f"{name}_spread", stride=stride, pad=pad)


def pad(b: Builder, x: Value, amounts: tuple[int, int, int, int], name: str) -> Value:
    """Zero points around ``x``."""
    top, left, bottom, right = amounts
    height, width, channels = x.shape
    shape = (height + top + bottom, width + left + right, channels)
    return b.emit(q.QSpread, (x,), shape, x.affine, name, pad=amounts)
