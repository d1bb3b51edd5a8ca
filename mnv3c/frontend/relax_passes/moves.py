"""Rules of ``four_dimensions`` for operators that move or interpolate pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.four_dimensions import View, in_place, place
from mnv3c.frontend.relax_passes.straight_line import Context, is_constant, shape_of

Rule = Callable[[Context, Any, list[View | None]], tuple[Any, View]]


def _map(context: Context, view: View | None, new: Any) -> View:
    """The view of an operand that is a tensor, channels first."""
    if view is None:
        raise Mnv3cError("an operand is not computed from the input", place(context))
    in_place(context, view, new)
    return view


def _whole_map(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    """A resize or a transposed convolution."""
    layout = getattr(call.attrs, "layout", None) or call.attrs.data_layout
    if layout != "NCHW":
        raise Mnv3cError("needs a [1, C, H, W] tensor", place(context))
    _map(context, old[0], call.args[0])
    if len(call.args) > 1 and not (is_constant(call.args[1]) or isinstance(call.args[1], relax.ShapeExpr)):
        raise Mnv3cError("weights and sizes must be constants", place(context))
    return context.emit(call), View(shape_of(context.old_variable))


def _argmax(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new = old[0], call.args[0]
    if view is None or view.shape != tuple(shape_of(new)[i] for i in view.order):
        raise Mnv3cError("argmax of something that is no map", place(context))
    if call.attrs.axis is None or view.order[int(call.attrs.axis) % 4] != 1:
        raise Mnv3cError("only an argmax over the channels is supported", place(context))
    best = context.emit(relax.op.argmax(new, axis=1, keepdims=True))
    shape = shape_of(context.old_variable)
    return best, View(shape, view.order) if len(shape) == 4 else View(shape)


def _concat(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    fields = list(call.args[0].fields)
    views = [v for v in old if v is not None]
    if len(views) != len(fields) or len({(v.order, len(v.shape)) for v in views}) != 1:
        raise Mnv3cError("joins tensors of different layouts, or a constant", place(context))
    order = views[0].order
    if any(v.shape != tuple(shape_of(x)[i] for i in order) for v, x in zip(views, fields, strict=True)):
        raise Mnv3cError("joins something that is no map", place(context))
    axis = order[int(call.attrs.axis) % 4]
    if axis == 0:
        raise Mnv3cError("joins images", place(context))
    return context.emit(relax.op.concat(fields, axis=axis)), View(shape_of(context.old_variable), order)


def _slice(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    _map(context, old[0], call.args[0])
    return context.emit(call), View(shape_of(context.old_variable))


def _pad(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new = old[0], call.args[0]
    widths = [int(p) for p in call.attrs.pad_width]
    if view is None or len(widths) != 8 or view.shape != tuple(shape_of(new)[i] for i in view.order):
        raise Mnv3cError("pads something that is no map", place(context))
    # Before and after of the new tensor's dimensions, channels first.
    pairs = [(widths[2 * view.order.index(i)], widths[2 * view.order.index(i) + 1]) for i in range(4)]
    if pairs[0] != (0, 0) or pairs[1] != (0, 0) or min(widths) < 0:
        raise Mnv3cError("pads images or channels", place(context))
    if str(call.attrs.pad_mode) != "constant" or float(call.attrs.pad_value) != 0.0:
        raise Mnv3cError("pads with something else than zero", place(context))
    flat = [p for pair in pairs for p in pair]
    padded = context.emit(relax.op.nn.pad(new, flat, pad_mode="constant", pad_value=0.0))
    return padded, View(shape_of(context.old_variable), view.order)


RULES: dict[str, Rule] = {
    "relax.image.resize2d": _whole_map,
    "relax.nn.conv2d_transpose": _whole_map,
    "relax.argmax": _argmax,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.nn.pad": _pad,
}
