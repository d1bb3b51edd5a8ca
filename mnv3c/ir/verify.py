"""Checks that a graph is well formed; run on every front end's output and after each pass in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import DTYPE_BYTES, Graph, Node, Shape
from mnv3c.ir.verify_spatial import rules
from mnv3c.reference.windows import window_output_size


class InvalidGraph(Exception):
    """The graph breaks a rule of the IR: a bug in whatever built it, not the user's mistake."""


def verify(graph: Graph) -> Graph:
    """Return ``graph`` if it is well formed.

    Raises:
        InvalidGraph: names the node or tensor and the rule.
    """
    ready = set(graph.inputs)
    for name in graph.inputs:
        _require(name in graph.tensors, name, "input has no tensor")
    for tensor in graph.tensors:
        _check_tensor(graph, tensor)
    names: set[str] = set()
    for node in graph.nodes:
        _require(node.name not in names, node.name, "two nodes of one name")
        names.add(node.name)
        for i in node.inputs:
            _require(i in ready, node.name, f"reads {i} before it is written")
        for o in node.outputs:
            _require(o not in ready, node.name, f"writes {o} a second time")
            _require(o in graph.tensors, node.name, f"output {o} has no tensor")
        ready |= set(node.outputs)
        rule = _RULES.get(type(node))
        if rule is not None:
            rule(graph, node)
    for o in graph.outputs:
        _require(o in ready, o, "output is never written")
    return graph


def _require(ok: bool, place: str, rule: str) -> None:
    if not ok:
        raise InvalidGraph(f"{place}: {rule}")


def _check_tensor(graph: Graph, name: str) -> None:
    tensor = graph.tensor(name)
    _require(tensor.dtype in DTYPE_BYTES, name, f"unknown dtype {tensor.dtype}")
    _require(all(n >= 1 for n in tensor.shape), name, f"shape {tensor.shape} is not positive")
    if tensor.quant is None:
        return
    for label, values in (("scale", tensor.quant.scale), ("zero point", tensor.quant.zero_point)):
        _require(len(values) in (1, tensor.shape[2]), name, f"{len(values)} {label} values")
    _require(all(np.isfinite(s) and s > 0 for s in tensor.quant.scale), name, "scale must be positive")


def _shape(graph: Graph, node: Node, want: Shape) -> None:
    got = graph.tensor(node.output).shape
    _require(got == want, node.name, f"output shape {got}, expected {want}")


def _conv(graph: Graph, node: f.Conv2d | q.QConv) -> None:
    height, width, channels = graph.tensor(node.inputs[0]).shape
    out, kh, kw, per_group = node.weight.shape
    _require(
        per_group * node.groups == channels,
        node.name,
        f"weights take {per_group * node.groups} channels, input has {channels}",
    )
    _require(out % node.groups == 0, node.name, "outputs do not divide into groups")
    _require(node.bias.shape == (out,), node.name, f"bias of shape {node.bias.shape}")
    size = window_output_size((height, width), (kh, kw), node.stride, node.pad, node.dilation)
    if isinstance(node, q.QConv):
        _check_qconv(graph, node)
    if node.output in graph.tensors:  # inside a fused node there is no tensor to check
        _shape(graph, node, (*size, out))


def _check_qconv(graph: Graph, node: q.QConv) -> None:
    _require(node.weight.dtype in (np.int8, np.int16), node.name, "weight must be int8 or int16")
    _require(node.bias.dtype == np.int32, node.name, "bias must be int32")
    if node.weight.dtype == np.int8:
        _require(bool((node.weight > -128).all()), node.name, "weight of -128")
    _require(bool((np.abs(node.weight.astype(np.int32)) <= 255).all()), node.name, "weight beyond nine bits")
    _check_requant(node.name, node.requant, node.weight.shape[0])
    reach = _reach(graph, node, node.inputs[0])
    weights = np.abs(node.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    worst = weights * reach + np.abs(node.bias.astype(np.int64))
    _require(bool((worst << node.requant.shift < 2**31).all()), node.name, "accumulator can overflow")


def _reach(graph: Graph, node: Node, name: str) -> int:
    """The largest magnitude of an int8 tensor, or of an int16 one, whose zero point is 0."""
    tensor = graph.tensor(name)
    _require(tensor.dtype in ("int8", "int16"), node.name, f"{name} must be int8 or int16")
    if tensor.dtype == "int8":
        return 128
    zero = tensor.quant is None or not any(tensor.quant.zero_point)
    _require(zero, node.name, f"{name} has 16 bits and a zero point other than 0")
    return 32768


def _check_requant(place: str, r: q.Requant, channels: int) -> None:
    _require(
        r.multiplier.dtype == np.int32 and r.multiplier.shape == (channels,),
        place,
        "multiplier int32 a channel",
    )
    _require(bool((r.multiplier >= 0).all()), place, "negative multiplier")
    _require(
        r.offset.dtype == np.int16 and len(r.offset) in (1, channels),
        place,
        "offset int16, one or one a channel",
    )
    _require(-128 <= r.low <= r.high <= 127, place, "clamp outside int8")
    if r.right is not None:
        _require(r.right.dtype == np.int8 and r.right.shape == (channels,), place, "right shift int8 [C]")
        _require(bool(((r.right >= 0) & (r.right <= 30)).all()), place, "right shift outside [0, 30]")


def _table(graph: Graph, node: q.QLut) -> None:
    _require(node.table.shape == (256,) and node.table.dtype == np.int8, node.name, "table int8 [256]")
    _require(graph.tensor(node.inputs[0]).dtype == "int8", node.name, "input must be int8")
    _same_shape(graph, node)


def _mean(graph: Graph, node: q.QMean) -> None:
    _require(1 <= node.count < 2**23, node.name, f"count {node.count}")
    _require(-128 <= node.zero_point <= 127, node.name, "zero point outside int8")
    _require(-128 <= node.low <= node.high <= 127, node.name, "clamp outside int8")
    _require(graph.tensor(node.inputs[0]).dtype == "int32", node.name, "input must be int32")
    _same_shape(graph, node)


def _add32(graph: Graph, node: q.QAdd32) -> None:
    _all_int8(graph, node)
    _require(1 <= node.shift <= 30, node.name, f"shift {node.shift}")
    worst = 128 * sum(abs(m) for m in node.multipliers) + abs(node.bias) + (1 << (node.shift - 1))
    _require(worst < 2**31, node.name, "sum can overflow")
    _require(-128 <= node.low <= node.high <= 127, node.name, "clamp outside int8")
    _two(graph, node)


def _multiply(graph: Graph, node: q.QMultiply) -> None:
    _all_int8(graph, node)
    _require(0 <= node.multiplier < 2**31, node.name, f"multiplier {node.multiplier}")
    _require(0 <= node.shift <= 14 and 0 <= node.right <= 30, node.name, "shift out of range")
    _require(all(-128 <= z <= 127 for z in node.zero_points), node.name, "zero point outside int8")
    _require(-128 <= node.low <= node.high <= 127, node.name, "clamp outside int8")
    _two(graph, node)


def _all_int8(graph: Graph, node: Node) -> None:
    for name in (*node.inputs, *node.outputs):
        _require(graph.tensor(name).dtype == "int8", node.name, f"{name} must be int8")


def _same_shape(graph: Graph, node: Node) -> None:
    _shape(graph, node, graph.tensor(node.inputs[0]).shape)


def _gate(graph: Graph, node: q.QGate) -> None:
    dtype = graph.tensor(node.inputs[0]).dtype
    _require(dtype == "int8", node.name, f"gated tensor is {dtype}, must be int8")
    _two(graph, node)


def _two(graph: Graph, node: Node) -> None:
    """A sum or a product, with broadcasting."""
    a, b = (graph.tensor(i).shape for i in node.inputs)
    shape = broadcast(a, b)
    _require(shape is not None, node.name, f"shapes {a} and {b} do not fit")
    assert shape is not None
    _shape(graph, node, shape)


def _constant(graph: Graph, node: f.Constant | q.QConstant) -> None:
    _require(not node.inputs, node.name, "a constant reads nothing")
    dtype = graph.tensor(node.output).dtype
    _require(node.values.dtype == np.dtype(dtype), node.name, f"values of {node.values.dtype} in {dtype}")
    _require(not isinstance(node, q.QConstant) or dtype == "int8", node.name, "values must be int8")
    _shape(graph, node, node.values.shape)


def _channel_sum(graph: Graph, node: q.ChannelSum) -> None:
    height, width, _ = graph.tensor(node.inputs[0]).shape
    worst = height * width * _reach(graph, node, node.inputs[0])
    _require(worst < 2**31, node.name, "sum can overflow")
    _pooled(graph, node)


def _pooled(graph: Graph, node: Node) -> None:
    _shape(graph, node, (1, 1, graph.tensor(node.inputs[0]).shape[2]))


def _window(graph: Graph, node: f.Pool | q.QMaxPool) -> None:
    height, width, channels = graph.tensor(node.inputs[0]).shape
    _shape(graph, node, (*window_output_size((height, width), node.kernel, node.stride, node.pad), channels))


def _requantized(graph: Graph, node: q.Requantize) -> None:
    _check_requant(node.name, node.requant, graph.tensor(node.output).shape[2])
    _same_shape(graph, node)


def _fused(graph: Graph, node: q.FusedConv) -> None:
    _require(node.activation is None or node.residual is None, node.name, "activation and residual")
    _conv(graph, node.conv)
    _require(node.inputs[0] == node.conv.inputs[0], node.name, "first input is not the convolution's")
    last = node.residual or node.activation or node.conv
    _require(node.outputs[0] == last.output, node.name, "first output is not the last part's")
    _require(
        (node.channel_sum is not None) == (len(node.outputs) == 2),
        node.name,
        "channel sums and outputs disagree",
    )


_RULES: dict[type[Node], Callable[[Graph, Any], None]] = {
    f.Conv2d: _conv,
    f.Activation: _same_shape,
    f.Add: _two,
    f.Multiply: _two,
    f.Constant: _constant,
    f.GlobalAveragePool: _pooled,
    f.Pool: _window,
    q.QConv: _conv,
    q.QHardSwish: _same_shape,
    q.QHardSigmoid: _same_shape,
    q.QLut: _table,
    q.QAdd: _two,
    q.QAdd32: _add32,
    q.QMultiply: _multiply,
    q.QConstant: _constant,
    q.QGate: _gate,
    q.ChannelSum: _channel_sum,
    q.Requantize: _requantized,
    q.QMean: _mean,
    q.QMaxPool: _window,
    q.Quantize: _same_shape,
    q.FlipSign: _same_shape,
    q.Dequantize: _same_shape,
    q.FusedConv: _fused,
    **rules(_require),
}
