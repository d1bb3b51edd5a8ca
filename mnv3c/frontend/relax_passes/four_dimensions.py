"""Every tensor as ``(1, C, H, W)``; fully connected layers as convolutions; constants on the right.

Before::

    lv1 = R.reshape(lv, (1, 576)); lv2 = R.matmul(lv1, const[576, 1000])
    lv3 = R.subtract(lv2, const[1000]); gv = R.nn.softmax(lv3, axis=1)

After::

    lv2 = R.nn.conv2d(lv, const[1000, 576, 1, 1]); lv3 = R.add(lv2, const[1, 1000, 1, 1])
    gv = R.nn.softmax(lv3, axis=1)

Reshape, flatten, squeeze and transpose leave no trace when they only rename the axes of data whose order
in memory (channels first) does not change; any other is refused. Tensors may be channels last for a
while: each old tensor is tracked as an axis order of its new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    constant,
    is_constant,
    operator,
    rewrite,
    shape_of,
)

FIRST = (0, 1, 2, 3)
LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class View:
    """How an old tensor is read out of a new one: transpose by ``order``, then reshape to ``shape``."""

    shape: tuple[int, ...]
    order: tuple[int, int, int, int] = FIRST


def four_dimensions(mod: Any) -> Any:
    """Rewrite ``main`` so that every tensor has four dimensions, channels first."""
    from mnv3c.frontend.relax_passes import arithmetic, moves  # which build on this module

    rules = {**_RULES, **arithmetic.RULES, **moves.RULES}
    views: dict[Any, View] = {}
    layout: list[str] = []

    def new_parameter(old: Any) -> Any:
        new, views[old] = _parameter(old)
        layout.append("NHWC" if views[old].order == LAST else "NCHW")
        return new

    def rule(context: Context, call: Any) -> Any | None:
        context.attributes["mnv3c.input_layout"] = layout[0]
        name = operator(call)
        if name not in rules:
            raise Mnv3cError(f"operator {name or type(call).__name__} is not supported", context.current)
        operands = (f for a in context.old.args for f in (a.fields if isinstance(a, relax.Tuple) else [a]))
        old = [views.get(a) if isinstance(a, relax.Var) else None for a in operands]
        new, views[context.old_variable] = rules[name](context, call, old)
        return new

    return rewrite(mod, rule, new_parameter=new_parameter)


def _parameter(old: Any) -> tuple[Any, View]:
    shape = shape_of(old)
    if len(shape) != 4 or shape[0] != 1:
        raise Mnv3cError(
            f"shape {list(shape)} is not that of one image, [1, channels, height, width]", old.name
        )
    if shape[1] in (1, 3, 4) or shape[3] not in (1, 3, 4):
        return old, View(shape)
    new = tuple(shape[i] for i in (0, 3, 1, 2))
    return relax.Var(old.name, relax.TensorType(new, "float32")), View(shape, LAST)


def _only_renames(view: View, new: Any) -> bool:
    """Whether the old tensor lies in memory exactly as the new one."""
    dims = shape_of(new)
    return [a for a in view.order if dims[a] > 1] == [a for a in FIRST if dims[a] > 1]


def in_place(context: Context, view: View, new: Any) -> None:
    """Refuse an old tensor that is not the new one, axis by axis."""
    if view.order != FIRST or view.shape != shape_of(new):
        raise Mnv3cError(f"needs a [1, C, H, W] tensor, not {list(view.shape)}", place(context))


def place(context: Context) -> str:
    """For errors: the operator at hand and its variable."""
    return f"{operator(context.old).removeprefix('relax.')} {context.current}"


def _rename(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new, shape = old[0], call.args[0], shape_of(context.old_variable)
    assert view is not None
    if shape == view.shape:
        return new, view
    if shape == shape_of(new) and _only_renames(view, new):
        return new, View(shape)
    if not _only_renames(view, new):
        raise Mnv3cError(f"reshape of channels-last data to {list(shape)} is not supported", place(context))
    return new, View(shape)


def _transpose(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new, shape = old[0], call.args[0], shape_of(context.old_variable)
    assert view is not None
    given = call.attrs.axes
    axes = [int(a) for a in given] if given is not None else list(range(len(view.shape)))[::-1]
    if [a for a in axes if view.shape[a] > 1] == [a for a in range(len(axes)) if view.shape[a] > 1]:
        return new, View(shape, view.order)
    if len(axes) == 4 and view.shape == tuple(shape_of(new)[i] for i in view.order):
        order = tuple(view.order[a] for a in axes)
        if order in (FIRST, LAST):
            return new, View(shape, order)
    raise Mnv3cError(f"transpose of {list(view.shape)} by {axes} is not supported", place(context))


def _unary(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    assert old[0] is not None
    return context.emit(call), old[0]


def _mean(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new, shape = old[0], call.args[0], shape_of(context.old_variable)
    assert view is not None
    given = call.attrs.axis
    axes = {int(a) % len(view.shape) for a in given} if given is not None else set(range(len(view.shape)))
    mapped = {view.order[a] for a in axes} if len(view.shape) == 4 else set()
    if mapped != {2, 3} or view.shape != tuple(shape_of(new)[i] for i in view.order):
        raise Mnv3cError("only a mean over height and width is supported", place(context))
    pooled = context.emit(relax.op.mean(new, [2, 3], keepdims=True))
    return pooled, View(shape, view.order if len(shape) == 4 else FIRST)


def _spatial(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view = old[0]
    if view is None or call.attrs.layout != "NCHW":
        raise Mnv3cError("needs a [1, C, H, W] tensor", place(context))
    in_place(context, view, call.args[0])
    return context.emit(call), View(shape_of(context.old_variable))


def _conv(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view = old[0]
    if view is None or not is_constant(call.args[1]):
        raise Mnv3cError("weights must be constants", place(context))
    if call.attrs.data_layout != "NCHW" or call.attrs.kernel_layout != "OIHW":
        raise Mnv3cError("layouts other than NCHW and OIHW are not supported", place(context))
    in_place(context, view, call.args[0])
    return context.emit(call), View(shape_of(context.old_variable))


def _matmul(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new = old[0], call.args[0]
    if view is None or not is_constant(call.args[1]) or array(call.args[1]).ndim != 2:
        raise Mnv3cError("the second operand must be a constant matrix", place(context))
    weight = array(call.args[1])
    if view.shape[-1] != math.prod(view.shape) or not _only_renames(view, new):
        raise Mnv3cError(
            f"a matrix product of {list(view.shape)} is not a fully connected layer", place(context)
        )
    kernel = weight.T.reshape(weight.shape[1], *shape_of(new)[1:])
    return context.emit(relax.op.nn.conv2d(new, constant(kernel))), View(shape_of(context.old_variable))


def _softmax(context: Context, call: Any, old: list[View | None]) -> tuple[Any, View]:
    view, new = old[0], call.args[0]
    assert view is not None
    axis = int(call.attrs.axis) % len(view.shape)
    dims = shape_of(new)
    whole = dims[2] == dims[3] == 1 and view.shape[axis] == dims[1]
    if not whole and not (len(view.shape) == 4 and view.order[axis] == 1):
        raise Mnv3cError("softmax must run over the channels", place(context))
    return context.emit(relax.op.nn.softmax(new, axis=1)), view


_RULES: dict[str, Callable[[Context, Any, list[View | None]], tuple[Any, View]]] = {
    "relax.reshape": _rename,
    "relax.flatten": _rename,
    "relax.squeeze": _rename,
    "relax.expand_dims": _rename,
    "relax.permute_dims": _transpose,
    "relax.clip": _unary,
    "relax.sigmoid": _unary,
    "relax.mean": _mean,
    "relax.nn.avg_pool2d": _spatial,
    "relax.nn.max_pool2d": _spatial,
    "relax.nn.adaptive_avg_pool2d": _spatial,
    "relax.nn.conv2d": _conv,
    "relax.matmul": _matmul,
    "relax.nn.softmax": _softmax,
}
