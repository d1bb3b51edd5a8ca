"""One stage of portable C for each operator of the integer graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mnv3c.codegen.program import Stage
from mnv3c.errors import Mnv3cError
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.ref import spatial
from mnv3c.paths.ref.base import CTYPE, Regions, each_channel, make_stage, operands, row_parts


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


def _fused_conv(graph: Graph, node: q.FusedConv, regions: Regions) -> Stage:
    conv = node.conv
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    constants: dict[str, tuple[np.ndarray, str]] = {
        "weight": (conv.weight, "weight"),
        "bias": (conv.bias, "bias"),
        "multiplier": (conv.requant.multiplier, "multiplier"),
    }
    if any(conv.pad):
        zero_point = np.asarray(x.quant.zero_point if x.quant else (0,), x.dtype)
        constants["padding"] = (np.broadcast_to(zero_point, x.shape[2:]).copy(), "table")
    if conv.requant.right is not None:
        constants["right"] = (conv.requant.right, "table")
    if conv.requant.offset.any():
        constants["offset"] = (each_channel(conv.requant.offset, y), "table")
    if isinstance(node.activation, q.QHardSwish):
        constants["swish_multiplier"] = (each_channel(node.activation.multiplier, y), "multiplier")
        constants["swish_offset"] = (each_channel(node.activation.offset, y), "table")
    if isinstance(node.activation, q.QLut):
        constants["lut"] = (node.activation.table, "table")
    residual = None
    if node.residual is not None:
        operand = node.residual.inputs.index(node.inputs[1])
        residual = {
            "name": f"R_{regions[node.inputs[1]]}",
            "type": CTYPE[graph.tensor(node.inputs[1]).dtype],
            "multiplier": node.residual.multipliers[operand],
        }
    kind = "depthwise " if conv.depthwise else ""
    kh, kw = conv.kernel
    return make_stage(
        graph,
        node,
        regions,
        "conv.c.j2",
        title=f"{kind}convolution {kh}x{kw}, {shape_text(x)} to {shape_text(y)}",
        constants=constants,
        parts=row_parts(y),
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


def _hard_swish(graph: Graph, node: q.QHardSwish, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "swish_multiplier": (each_channel(node.multiplier, y), "multiplier"),
        "swish_offset": (each_channel(node.offset, y), "table"),
    }
    return make_stage(
        graph, node, regions, "hard_swish.c.j2", title=f"h-swish, {shape_text(y)}", constants=constants
    )


def _hard_sigmoid(graph: Graph, node: q.QHardSigmoid, regions: Regions) -> Stage:
    title = f"hard sigmoid, {shape_text(graph.tensor(node.output))}"
    return make_stage(graph, node, regions, "hard_sigmoid.c.j2", title=title, in_place=0)


def _lut(graph: Graph, node: q.QLut, regions: Regions) -> Stage:
    title = f"table look-up, {shape_text(graph.tensor(node.output))}"
    constants = {"lut": (node.table, "table")}
    return make_stage(graph, node, regions, "lut.c.j2", title=title, constants=constants, in_place=0)


def _add(graph: Graph, node: q.QAdd, regions: Regions) -> Stage:
    title = f"add, {shape_text(graph.tensor(node.output))}"
    return make_stage(graph, node, regions, "add.c.j2", title=title, at=operands(graph, node))


def _add32(graph: Graph, node: q.QAdd32, regions: Regions) -> Stage:
    title = f"exact add, {shape_text(graph.tensor(node.output))}"
    return make_stage(graph, node, regions, "add32.c.j2", title=title, at=operands(graph, node))


def _multiply(graph: Graph, node: q.QMultiply, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    return make_stage(
        graph,
        node,
        regions,
        "multiply.c.j2",
        title=f"exact product, {shape_text(y)}",
        parts=row_parts(y),
        at=operands(graph, node),
    )


def _constant(graph: Graph, node: q.QConstant, regions: Regions) -> Stage:
    title = f"constant, {shape_text(graph.tensor(node.output))}"
    constants = {"values": (node.values, "table")}
    return make_stage(graph, node, regions, "constant.c.j2", title=title, constants=constants)


def _gate(graph: Graph, node: q.QGate, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "factor": (each_channel(node.factor, y), "multiplier"),
        "zero_point": (each_channel(node.zero_point, y), "table"),
    }
    return make_stage(
        graph,
        node,
        regions,
        "gate.c.j2",
        title=f"SE gate, {shape_text(y)}",
        constants=constants,
        parts=row_parts(y),
        in_place=0 if graph.tensor(node.inputs[0]).shape == y.shape else None,
        at=operands(graph, node),
    )


def _channel_sum(graph: Graph, node: q.ChannelSum, regions: Regions, owner: str | None = None) -> Stage:
    title = f"channel sums, {shape_text(graph.tensor(node.inputs[0]))}"
    return make_stage(graph, node, regions, "channel_sum.c.j2", title=title, owner=owner)


def _requantize(graph: Graph, node: q.Requantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "bias": (node.bias, "bias"),
        "multiplier": (node.requant.multiplier, "multiplier"),
        "offset": (each_channel(node.requant.offset, y), "table"),
    }
    if node.requant.right is not None:
        constants["right"] = (node.requant.right, "table")
    return make_stage(
        graph,
        node,
        regions,
        "requantize.c.j2",
        title=f"requantise the pool, {shape_text(y)}",
        constants=constants,
    )


def _mean(graph: Graph, node: q.QMean, regions: Regions) -> Stage:
    title = f"mean, {shape_text(graph.tensor(node.output))}"
    return make_stage(graph, node, regions, "mean.c.j2", title=title)


def _max_pool(graph: Graph, node: q.QMaxPool, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    title = f"max pool {node.kernel[0]}x{node.kernel[1]} to {shape_text(y)}"
    return make_stage(graph, node, regions, "max_pool.c.j2", title=title, parts=row_parts(y))


def _quantize(graph: Graph, node: q.Quantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "inverse_scale": (_floats(node.inverse_scale, y), "table"),
        "zero_point": (_integers(node.zero_point, y), "table"),
    }
    return make_stage(
        graph,
        node,
        regions,
        "quantize.c.j2",
        title=f"quantise {shape_text(y)}",
        constants=constants,
        parts=row_parts(y),
    )


def _flip_sign(graph: Graph, node: q.FlipSign, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    title = f"uint8 to int8, {shape_text(y)}" if y.dtype == "int8" else f"int8 to uint8, {shape_text(y)}"
    return make_stage(graph, node, regions, "flip_sign.c.j2", title=title, parts=row_parts(y))


def _dequantize(graph: Graph, node: q.Dequantize, regions: Regions) -> Stage:
    y = graph.tensor(node.output)
    constants = {
        "scale": (_floats(node.scale, y), "table"),
        "zero_point": (_integers(node.zero_point, y), "table"),
    }
    return make_stage(
        graph, node, regions, "dequantize.c.j2", title=f"dequantise {shape_text(y)}", constants=constants
    )


def _floats(values: tuple[float, ...], t: Tensor) -> np.ndarray:
    return each_channel(np.asarray(values, np.float32), t)


def _integers(values: tuple[int, ...], t: Tensor) -> np.ndarray:
    return each_channel(np.asarray(values, np.int16), t)


_RULES: dict[type[Node], Callable[..., Stage]] = {
    q.FusedConv: _fused_conv,
    q.QHardSwish: _hard_swish,
    q.QHardSigmoid: _hard_sigmoid,
    q.QLut: _lut,
    q.QAdd: _add,
    q.QAdd32: _add32,
    q.QMultiply: _multiply,
    q.QConstant: _constant,
    q.QGate: _gate,
    q.ChannelSum: _channel_sum,
    q.Requantize: _requantize,
    q.QMean: _mean,
    q.QMaxPool: _max_pool,
    q.Quantize: _quantize,
    q.FlipSign: _flip_sign,
    q.Dequantize: _dequantize,
    **spatial.RULES,
}
