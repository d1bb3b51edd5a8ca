"""Rules of ``four_dimensions`` for sums and products, which broadcast as in NumPy.

A constant that is one value, or one a channel, stays the call's second operand, for later passes to fold.
Any other is a tensor of its own, ``R.reshape(const, shape)``, which no later pass looks into::

    lv1 = R.reshape(const[1, 1, 14, 14], (1, 1, 14, 14)); lv2 = R.add(lv, lv1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.four_dimensions import FIRST, View, place
from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    constant,
    is_constant,
    operator,
    shape_of,
)
from mnv3c.ir.broadcast import shortest


def _binary(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    a, b = old
    if a is not None and b is not None:
        return _two_tensors(context, call, a, b)
    name, left = operator(call), b is not None
    view, x, values = (b, call.args[1], call.args[0]) if left else (a, call.args[0], call.args[1])
    if view is None or not is_constant(values):
        raise Mnv3cError("an operand is neither a tensor nor a constant", place(context))
    c, view = _operand(context, array(values).astype(np.float64), view, x)
    if left and name == "relax.divide":
        raise Mnv3cError("a constant divided by a tensor is not supported", place(context))
    if left and name == "relax.subtract":
        x, name = context.emit(relax.op.multiply(x, constant(-1.0))), "relax.add"
    if name == "relax.divide" and not bool((c != 0).all()):
        raise Mnv3cError("division by zero", place(context))
    if name == "relax.divide":
        c = 1.0 / c
    elif name == "relax.subtract":
        c = -c
    second = constant(c)
    if c.size > 1 and c.shape[2:] != (1, 1):
        second = context.emit(relax.op.reshape(second, relax.ShapeExpr(c.shape)))
    make = relax.op.multiply if name in ("relax.multiply", "relax.divide") else relax.op.add
    return context.emit(make(x, second)), view


def _operand(context: Context, values: np.ndarray, view: View, new: Any) -> tuple[np.ndarray, View]:
    """The constant as a scalar, or of four dimensions as the new tensor; and the view of the result.

    Axes along which it is the same everywhere are of length one.
    """
    if values.size == 1 and len(view.shape) >= values.ndim:
        return values.reshape(()), view
    shape, dims = shape_of(context.old_variable), shape_of(new)
    if shape == view.shape:
        full = np.broadcast_to(values, shape).reshape([dims[i] for i in view.order])
    elif len(shape) == 4 and shape[0] == 1 and view.shape == tuple(dims[i] for i in view.order):
        full = np.broadcast_to(values, shape)
    else:
        raise Mnv3cError(
            f"{list(view.shape)} with a constant {list(values.shape)} is not supported", place(context)
        )
    return shortest(full.transpose(np.argsort(view.order)), dims), View(shape, view.order)


def _two_tensors(context: Context, call: Any, a: View, b: View) -> tuple[Any, View]:
    name, (x, y) = operator(call), call.args
    what = name.removeprefix("relax.")
    if x.same_as(y) and a == b:
        if name != "relax.add":
            raise Mnv3cError(f"{what} of a tensor and itself is not supported", place(context))
        return context.emit(relax.op.multiply(x, constant(2.0))), a
    if name not in ("relax.add", "relax.multiply"):
        raise Mnv3cError(f"{what} of two tensors is not supported", place(context))
    view = a if a == b and shape_of(x) == shape_of(y) else _together(context, (a, b), (x, y))
    if math.prod(shape_of(x)) < math.prod(shape_of(y)):
        x, y = y, x
    return context.emit(relax.Call(call.op, [x, y], call.attrs)), view


def _together(context: Context, views: tuple[View, View], new: tuple[Any, Any]) -> View:
    """How the old result is read out of what the new tensors broadcast to.

    Raises:
        Mnv3cError: an axis of one old tensor meets an axis of the other that the new ones have elsewhere.
    """
    refused = Mnv3cError(
        f"{list(views[0].shape)} with {list(views[1].shape)} is not supported", place(context)
    )
    found: dict[int, int] = {}
    for view, x in zip(views, new, strict=True):
        axes = _axes(view, x)
        if axes is None or any(found.get(old, axis) != axis for old, axis in axes.items()):
            raise refused
        found |= axes
    shape = shape_of(context.old_variable)
    dims = np.broadcast_shapes(*(shape_of(x) for x in new))
    if len(set(found.values())) < len(found) or math.prod(dims) != math.prod(shape) or dims[0] != 1:
        raise refused
    if len(shape) == 4:
        for order in dict.fromkeys((*(v.order for v in views if len(v.shape) == 4), FIRST)):
            here = shape == tuple(dims[i] for i in order)
            if here and all(order[old] == axis for old, axis in found.items()):
                return View(shape, order)
    in_memory = [found[old] for old in sorted(found)]
    if in_memory != sorted(in_memory):
        raise refused
    return View(shape)


def _axes(view: View, new: Any) -> dict[int, int] | None:
    """New axis by old one (-1 is the last) of axes longer than one; ``None`` where some were joined."""
    dims = shape_of(new)
    if len(view.shape) == 4 and view.shape == tuple(dims[i] for i in view.order):
        return {old - 4: axis for old, axis in enumerate(view.order) if dims[axis] > 1}
    old_axes = [i - len(view.shape) for i, n in enumerate(view.shape) if n > 1]
    axes = [i for i in FIRST if dims[i] > 1]
    if [view.shape[i] for i in old_axes] != [dims[i] for i in axes]:
        return None
    return dict(zip(old_axes, axes, strict=True))


RULES: dict[str, Callable[[Context, Any, list[View | None]], tuple[Any, View]]] = dict.fromkeys(
    ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"), _binary
)
