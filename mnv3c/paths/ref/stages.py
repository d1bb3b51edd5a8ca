"""One stage of portable C for each operator of the integer graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.errors import Mnv3cError
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import DTYPE_BYTES, Graph, Node, Tensor

_CTYPE = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}
Regions = Mapping[str, str]


def lower_node(graph: Graph, node: Node, regions: Regions) -> list[Stage]:
    """Stages for ``node``; raises ``Mnv3cError`` for an operator this path does not know."""
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    rule = _RULES.get(type(node))
    if rule is None:
        raise Mnv3cError(f"the ref path has no kernel for {type(node).__name__}", node.name)
    stages = [rule(graph, node, regions)]
    if isinstance(node, q.FusedConv) and node.channel_sum is not None:
        stages.append(_channel_sum(graph, node.channel_sum, regions, owner=node.name))
    return stages


def _stage(
    graph: Graph,
    node: Node,
    regions: Regions,
    template: str,
    *,
    title: str,
    constants: Mapping[str, tuple[np.ndarray, str]] | None = None,
    parts: int = 1,
    in_place: int | None = None,
    outputs: int = 1,
    owner: str | None = None,
    **values: object,
) -> Stage:
    """Render ``templates/kernels/ref/<template>`` and wrap it; ``in_place`` is an input's index."""
    label = identifier(node.name)
    reads = tuple(regions[i] for i in node.inputs)
    writes = tuple(regions[o] for o in node.outputs[:outputs])
    prefix = {key: f"{key}_{label}" for key in constants or {}}
    body = render(
        f"kernels/ref/{template}",
        node=node,
        x=graph.tensor(node.inputs[0]),
        y=graph.tensor(node.outputs[0]),
        inputs=[(f"R_{regions[i]}", _CTYPE[graph.tensor(i).dtype], graph.tensor(i)) for i in node.inputs],
        out=f"R_{writes[0]}",
        out_type=_CTYPE[graph.tensor(node.outputs[0]).dtype],
        parts=parts,
        names=prefix,
        **values,
    )
    same_size = in_place is not None and _element(graph, node.inputs[in_place]) == _element(
        graph, node.outputs[0]
    )
    return Stage(
        name=label if outputs else f"{label}_sum",
        title=title,
        nodes=(owner or node.name,),
        reads=reads,
        writes=writes,
        body=body,
        # Elements of one size only: else a share would write where another one still has to read.
        in_place=((reads[in_place], writes[0]),) if in_place is not None and same_size else (),
        kernels=_kernels(body),
        constants=tuple(Constant(prefix[k], data, role) for k, (data, role) in (constants or {}).items()),
        parts=parts,
    )


# Each helper and the helpers that it calls itself, callee first.
_HELPERS = {
    "ref_clamp": (),
    "ref_rdmulh32": (),
    "ref_rdmulh16": (),
    "ref_requantize": ("ref_clamp", "ref_rdmulh32"),
    "ref_requantize_twice": ("ref_rdmulh32",),
    "ref_requantize_away": ("ref_rdmulh32",),
    "ref_hard_swish": ("ref_clamp", "ref_rdmulh16"),
    "ref_quantize": ("ref_clamp",),
}


def _kernels(body: str) -> tuple[Kernel, ...]:
    """The helper functions that ``body`` calls, those they need first."""
    needed: dict[str, None] = {}
    for helper, callees in _HELPERS.items():
        if f"{helper}(" in body:
            needed.update(dict.fromkeys((*callees, helper)))
    return tuple(Kernel(h, render(f"kernels/ref/{h}.c.j2")) for h in needed)


def _shape(t: Tensor) -> str:
    return "x".join(str(n) for n in t.shape)


def _row_parts(t: Tensor) -> int:
    """Rows are independent: enough shares for a phone's cores, never more than there are rows."""
    return min(t.shape[0], 8)


def _fused_conv(graph: Graph, node: q.FusedConv, regions: Regions) -> Stage:
    conv = node.conv
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    constants: dict[str, tuple[np.ndarray, str]] = {
        "weight": (conv.weight, "weight"),
        "bias": (conv.bias, "bias"),
        "multiplier": (conv.requant.multiplier, "multiplier"),
    }
    if any(conv.pad):
        zero_point = np.asarray(x.quant.zero_point if x.quant else (0,), np.int8)
        constants["padding"] = (np.broadcast_to(zero_point, x.shape[2:]).copy(), "table")
    if conv.requant.right is not None:
        constants["right"] = (conv.requant.right, "table")
    if conv.requant.offset.any():
        constants["offset"] = (_each_channel(conv.requant.offset, y), "table")
    if isinstance(node.activation, q.QHardSwish):
        constants["swish_multiplier"] = (_each_channel(node.activation.multiplier, y), "multiplier")
        constants["swish_offset"] = (_each_channel(node.activation.offset, y), "table")
    if isinstance(node.activation, q.QLut):
        constants["lut"] = (node.activation.table, "table")
    residual = None
    if node.residual is not None:
        operand = node.residual.inputs.index(node.inputs[1])
        residual = {
            "name": f"R_{regions[node.inputs[1]]}",
            "type": _CTYPE[graph.tensor(node.inputs[1]).dtype],
            "multiplier": node.residual.multipliers[operand],
        }
    kind = "depthwise " if conv.depthwise else ""
    kh, kw = conv.kernel
    return _stage(
        graph,
        node,
        regions,
        "conv.c.j2",
        title=f"{kind}convolution {kh}x{kw}, {_shape(x)} to {_shape(y)}",
        constants=constants,
        parts=_row_parts(y),
        # Not where the shortcut is what the convolution reads too: it reads a pixel for each channel.
        in_place=1 if residual and node.inputs[0] != node.inputs[1] else None,
        conv=conv,
        kernel=conv.kernel,
        weight_type="int8_t" if conv.weight.dtype == np.int8 else "int16_t",
        per_group=conv.weight.shape[3],
        step=conv.weight.shape[0] // conv.groups,
        residual=residual,
        activation=type(node.activation).__name__ if node.activation else "",
    )


def _element(graph: Graph, name: str) -> int:
    return DTYPE_BYTES[graph.tensor(name).dtype]


def _each_channel(values: np.ndarray, t: Tensor) -> np.ndarray:
    return np.broadcast_to(values, t.shape[2:]).copy()


def _hard_swish(graph: Graph, node: q.QHardSwish, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "swish_multiplier": (_each_channel(node.multiplier, y), "multiplier"),
        "swish_offset": (_each_channel(node.offset, y), "table"),
    }
    return _stage(graph, node, regions, "hard_swish.c.j2", title=f"h-swish, {_shape(y)}", constants=constants)


def _hard_sigmoid(graph: Graph, node: q.QHardSigmoid, regions: Regions) -> Stage:
    title = f"hard sigmoid, {_shape(graph.tensor(node.output))}"
    return _stage(graph, node, regions, "hard_sigmoid.c.j2", title=title, in_place=0)


def _lut(graph: Graph, node: q.QLut, regions: Regions) -> Stage:
    title = f"table look-up, {_shape(graph.tensor(node.output))}"
    constants = {"lut": (node.table, "table")}
    return _stage(graph, node, regions, "lut.c.j2", title=title, constants=constants, in_place=0)


def _add(graph: Graph, node: q.QAdd, regions: Regions) -> Stage:
    title = f"add, {_shape(graph.tensor(node.output))}"
    return _stage(graph, node, regions, "add.c.j2", title=title)


def _add32(graph: Graph, node: q.QAdd32, regions: Regions) -> Stage:
    title = f"exact add, {_shape(graph.tensor(node.output))}"
    return _stage(graph, node, regions, "add32.c.j2", title=title)


def _multiply(graph: Graph, node: q.QMultiply, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    full = graph.tensor(node.inputs[1]).shape == y.shape and y.shape[:2] != (1, 1)
    return _stage(
        graph,
        node,
        regions,
        "multiply.c.j2",
        title=f"exact product, {_shape(y)}",
        parts=_row_parts(y),
        full=full,
    )


def _gate(graph: Graph, node: q.QGate, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "factor": (_each_channel(node.factor, y), "multiplier"),
        "zero_point": (_each_channel(node.zero_point, y), "table"),
    }
    full = graph.tensor(node.inputs[1]).shape == y.shape and y.shape[:2] != (1, 1)
    return _stage(
        graph,
        node,
        regions,
        "gate.c.j2",
        title=f"SE gate, {_shape(y)}",
        constants=constants,
        parts=_row_parts(y),
        in_place=0,
        full=full,
    )


def _channel_sum(graph: Graph, node: q.ChannelSum, regions: Regions, owner: str | None = None) -> Stage:
    title = f"channel sums, {_shape(graph.tensor(node.inputs[0]))}"
    return _stage(graph, node, regions, "channel_sum.c.j2", title=title, owner=owner)


def _requantize(graph: Graph, node: q.Requantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "bias": (node.bias, "bias"),
        "multiplier": (node.requant.multiplier, "multiplier"),
        "offset": (_each_channel(node.requant.offset, y), "table"),
    }
    if node.requant.right is not None:
        constants["right"] = (node.requant.right, "table")
    return _stage(
        graph,
        node,
        regions,
        "requantize.c.j2",
        title=f"requantise the pool, {_shape(y)}",
        constants=constants,
    )


def _mean(graph: Graph, node: q.QMean, regions: Regions) -> Stage:
    title = f"mean, {_shape(graph.tensor(node.output))}"
    return _stage(graph, node, regions, "mean.c.j2", title=title)


def _max_pool(graph: Graph, node: q.QMaxPool, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    title = f"max pool {node.kernel[0]}x{node.kernel[1]} to {_shape(y)}"
    return _stage(graph, node, regions, "max_pool.c.j2", title=title, parts=_row_parts(y))


def _quantize(graph: Graph, node: q.Quantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "inverse_scale": (_floats(node.inverse_scale, y), "table"),
        "zero_point": (_integers(node.zero_point, y), "table"),
    }
    return _stage(
        graph,
        node,
        regions,
        "quantize.c.j2",
        title=f"quantise {_shape(y)}",
        constants=constants,
        parts=_row_parts(y),
    )


def _flip_sign(graph: Graph, node: q.FlipSign, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    title = f"uint8 to int8, {_shape(y)}" if y.dtype == "int8" else f"int8 to uint8, {_shape(y)}"
    return _stage(graph, node, regions, "flip_sign.c.j2", title=title, parts=_row_parts(y))


def _dequantize(graph: Graph, node: q.Dequantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "scale": (_floats(node.scale, y), "table"),
        "zero_point": (_integers(node.zero_point, y), "table"),
    }
    return _stage(
        graph, node, regions, "dequantize.c.j2", title=f"dequantise {_shape(y)}", constants=constants
    )


def _floats(values: tuple[float, ...], t: Tensor) -> np.ndarray:
    return _each_channel(np.asarray(values, np.float32), t)


def _integers(values: tuple[int, ...], t: Tensor) -> np.ndarray:
    return _each_channel(np.asarray(values, np.int16), t)


_RULES: dict[type[Node], Callable[..., Stage]] = {
    q.FusedConv: _fused_conv,
    q.QHardSwish: _hard_swish,
    q.QHardSigmoid: _hard_sigmoid,
    q.QLut: _lut,
    q.QAdd: _add,
    q.QAdd32: _add32,
    q.QMultiply: _multiply,
    q.QGate: _gate,
    q.ChannelSum: _channel_sum,
    q.Requantize: _requantize,
    q.QMean: _mean,
    q.QMaxPool: _max_pool,
    q.Quantize: _quantize,
    q.FlipSign: _flip_sign,
    q.Dequantize: _dequantize,
}
