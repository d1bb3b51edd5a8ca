"""From a partitioned Relax module to the float graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import lower_moves
from mnv3c.frontend.relax_passes.straight_line import array, bindings, is_constant, operator, result, shape_of
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node, Shape, Tensor


class EmptyNetwork(Mnv3cError):
    """Nothing is left between the input and the output."""


Fields = dict[str, Any]


def lower(mod: Any, name: str, meta: Mapping[str, object]) -> Graph:
    """Make a graph of a module whose ``main`` calls composites only (``run_passes``).

    Tensors lose the batch and turn to ``(H, W, C)``, weights to ``[out, kernel_h, kernel_w, in / groups]``.
    """
    (parameter,) = mod["main"].params
    names: dict[Any, str] = {parameter: "input"}
    tensors = {"input": Tensor("input", _shape(parameter))}
    nodes: list[Node] = []
    counts: dict[str, int] = {}
    for var, call in bindings(mod):
        try:
            kind, read, operator_class, fields = _translate(mod, call)
        except Mnv3cError as error:
            raise Mnv3cError(error.message, f"{error.place} {var.name}") from None
        counts[kind] = counts.get(kind, -1) + 1
        label = f"{kind}_{counts[kind]}"
        inputs = tuple(names[a] for a in read)
        if (
            operator_class in (f.Add, f.Multiply)
            and tensors[inputs[0]].elements < tensors[inputs[1]].elements
        ):
            inputs = inputs[::-1]
        nodes.append(operator_class(name=label, inputs=inputs, outputs=(label,), **fields))
        names[var] = label
        tensors[label] = Tensor(label, _shape(var))
    outputs = tuple(names[v] for v in result(mod))
    if not nodes or "input" in outputs:
        raise EmptyNetwork("the network has no operator between its input and its output", name)
    return Graph(name, tuple(nodes), tensors, ("input",), outputs, dict(meta))


def _translate(mod: Any, call: Any) -> tuple[str, list[Any], type[Node], Fields]:
    """Kind, operands, class and fields of the node that a bound call becomes."""
    if operator(call):
        operator_class, fields = lower_moves.CALLS[operator(call)](call)
        return operator_class.__name__.lower(), lower_moves.operands(call), operator_class, fields
    composite = mod[call.op]
    kind = str(composite.attrs["Composite"]).removeprefix("mnv3c.")
    return kind, list(call.args), *_RULES[kind](composite)


def _shape(expr: Any) -> Shape:
    _, channels, height, width = shape_of(expr)
    return height, width, channels


def _calls(composite: Any) -> dict[str, Any]:
    """The calls inside a composite, by operator."""
    found: dict[str, Any] = {}
    body = composite.body
    for block in body.blocks:
        for binding in block.bindings:
            found[operator(binding.value)] = binding.value
    return found


def _scalar(call: Any) -> float:
    return float(next(array(a) for a in call.args if is_constant(a)).reshape(()))


def _slope(value: float) -> float:
    """The slope meant by a float32: 1/6 in MobileNetV3, 0.2 in Paddle, else as it is."""
    return next((s for s in (1.0 / 6.0, 0.2) if abs(value - s) < 1e-6), value)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _pad(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right


def _conv(composite: Any) -> tuple[type[Node], Fields]:
    calls = _calls(composite)
    conv, add = calls["relax.nn.conv2d"], calls["relax.add"]
    bias = next(array(a) for a in add.args if is_constant(a)).astype(np.float32).reshape(-1)
    return f.Conv2d, {
        "weight": np.ascontiguousarray(array(conv.args[1]).astype(np.float32).transpose(0, 2, 3, 1)),
        "bias": np.ascontiguousarray(bias),
        "stride": _pair(conv.attrs.strides),
        "pad": _pad(conv.attrs.padding),
        "dilation": _pair(conv.attrs.dilation),
        "groups": int(conv.attrs.groups),
    }


def _gate(kind: str) -> Callable[[Any], tuple[type[Node], Fields]]:
    def rule(composite: Any) -> tuple[type[Node], Fields]:
        calls = [b.value for block in composite.body.blocks for b in block.bindings]
        scale = next(c for c in calls if operator(c) == "relax.multiply" and any(map(is_constant, c.args)))
        shift = next(c for c in calls if operator(c) == "relax.add")
        return f.Activation, {"kind": kind, "slope": _slope(_scalar(scale)), "offset": _scalar(shift)}

    return rule


def _clip(composite: Any) -> tuple[type[Node], Fields]:
    low, high = (float(a.value) for a in _calls(composite)["relax.clip"].args[1:])
    return f.Activation, {"kind": "clip", "low": low, "high": high}


def _pool(kind: str, name: str) -> Callable[[Any], tuple[type[Node], Fields]]:
    def rule(composite: Any) -> tuple[type[Node], Fields]:
        attrs = _calls(composite)[name].attrs
        if int(attrs.ceil_mode) or _pair(attrs.dilation) != (1, 1):
            raise Mnv3cError("ceil_mode and dilation are not supported", f"{kind} pool")
        if kind == "average" and _pair(attrs.pool_size) == _pair(attrs.strides) == (1, 1):
            return f.Spread, {"pad": _pad(attrs.padding)}  # see onnx_model.rewrite
        return f.Pool, {
            "kind": kind,
            "kernel": _pair(attrs.pool_size),
            "stride": _pair(attrs.strides),
            "pad": _pad(attrs.padding),
            "count_include_pad": bool(attrs.count_include_pad),
        }

    return rule


def _plain(node: type[Node], **fields: Any) -> Callable[[Any], tuple[type[Node], Fields]]:
    return lambda _: (node, fields)


_RULES: dict[str, Callable[[Any], tuple[type[Node], Fields]]] = {
    "conv2d": _conv,
    "hard_swish": _gate("hard_swish"),
    "hard_sigmoid": _gate("hard_sigmoid"),
    "clip": _clip,
    "sigmoid": _plain(f.Activation, kind="sigmoid"),
    "global_average_pool": _plain(f.GlobalAveragePool),
    "average_pool": _pool("average", "relax.nn.avg_pool2d"),
    "max_pool": _pool("max", "relax.nn.max_pool2d"),
    "add": _plain(f.Add),
    "multiply": _plain(f.Multiply),
    "softmax": _plain(f.Softmax),
}
