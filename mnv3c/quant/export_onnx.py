"""The integer graph as an ONNX model in QDQ form, which onnxruntime runs.

Every stored tensor is a ``QuantizeLinear`` of its own type and is read through ``DequantizeLinear``. Between
them whole numbers are computed with, in float32 where that is exact and else in float64: trained networks are
chaotic, and a rounding that is off by one anywhere changes most of the last tensor. Real scales are therefore
at the inputs and outputs alone. ``docs/quantised-file.md`` says how equal the answers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnv3c.errors import Mnv3cError
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Tensor

_OPSET = 21  # the first with 16-bit QuantizeLinear
_IR_VERSION = 10
_EXACT = 1 << 24  # whole numbers up to here are exact in float32
_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}


def save(graph: Graph, path: Path) -> None:
    """Write ``to_onnx(graph)``.

    Raises:
        Mnv3cError: an operator has no QDQ form, or the file cannot be written.
    """
    try:
        path.write_bytes(to_onnx(graph).SerializeToString(deterministic=True))
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(path)) from None


def to_onnx(graph: Graph) -> Any:
    """The model of a graph of primitives; inputs and outputs are NCHW with a batch of one.

    An int8 or int16 input or output becomes float32, with the quantisation inside; uint8 stays.

    Raises:
        Mnv3cError: an operator has no QDQ form.
    """
    writer = _Writer(graph)
    for name in graph.inputs:
        writer.input(graph.tensor(name))
    for node in graph.nodes:
        rule = _RULES.get(type(node))
        if rule is None:
            raise Mnv3cError(f"{type(node).__name__} has no QDQ form", f"node {node.name}")
        rule(writer, node)
    return writer.model()


class _Writer:
    """Nodes and constants while they are collected."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}__{self._count}"

    def op(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        output = output or self.fresh(kind)
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes)
        )
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.fresh("constant")
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)
        return name

    def channels(self, value: Any) -> str:
        """Values a channel, or one, as a float64 constant that broadcasts over NCHW."""
        return self.constant(np.asarray(value, np.float64).reshape(1, -1, 1, 1), np.float64)

    def quantize(self, x: str, output: str, scale: Any, zero_point: Any, dtype: str) -> str:
        return self._linear("QuantizeLinear", x, output, scale, zero_point, dtype)

    def dequantize(self, x: str, scale: Any, zero_point: Any, dtype: str) -> str:
        return self._linear("DequantizeLinear", x, None, scale, zero_point, dtype)

    def _linear(self, kind: str, x: str, output: str | None, scale: Any, zero_point: Any, dtype: str) -> str:
        scales, zeros = np.broadcast_arrays(
            np.atleast_1d(np.asarray(scale, np.float64)), np.atleast_1d(np.asarray(zero_point, np.int64))
        )
        if np.ptp(scales) == 0 and np.ptp(zeros) == 0:
            scales, zeros = scales[0], zeros[0]
        inputs = [x, self.constant(scales), self.constant(zeros, np.dtype(dtype))]
        return self.op(kind, inputs, output, **({"axis": 1} if np.ndim(scales) else {}))

    def read(self, name: str, zero_point: Any = 0) -> str:
        """A stored tensor's integers, less ``zero_point``, as float32."""
        return self.dequantize(name, 1.0, zero_point, self.graph.tensor(name).dtype)

    def store(self, x: str, node: Node) -> None:
        """Whole numbers in float32 as the integers of the node's output, saturated."""
        self.quantize(x, node.output, 1.0, 0, self.graph.tensor(node.output).dtype)

    def clip(self, x: str, low: Any, high: Any) -> str:
        return self.op("Min", [self.op("Max", [x, self.channels(low)]), self.channels(high)])

    def input(self, tensor: Tensor) -> None:
        height, width, channels = tensor.shape
        is_real = tensor.dtype in ("int8", "int16")
        name = f"{tensor.name}_real" if is_real else tensor.name
        kind = TensorProto.FLOAT if is_real else _TYPES[tensor.dtype]
        self.inputs.append(helper.make_tensor_value_info(name, kind, [1, channels, height, width]))
        if is_real:
            self.quantize(name, tensor.name, *parameters(tensor), tensor.dtype)

    def model(self) -> Any:
        outputs = []
        for name in self.graph.outputs:
            tensor = self.graph.tensor(name)
            height, width, channels = tensor.shape
            if tensor.dtype in ("int8", "int16"):
                scaled = self.dequantize(name, *parameters(tensor), tensor.dtype)
                name = self.op("Identity", [scaled], f"{name}_real")
            kind = _TYPES["float32" if tensor.dtype in ("int8", "int16") else tensor.dtype]
            outputs.append(helper.make_tensor_value_info(name, kind, [1, channels, height, width]))
        body = helper.make_graph(
            self.nodes, self.graph.name, self.inputs, outputs, list(self.constants.values())
        )
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="mnv3c",
        )
        onnx.checker.check_model(model)
        return model


def parameters(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a tensor, float64 and int64; 1 and 0 of one that has none."""
    if tensor.quant is None:
        return np.ones(1), np.zeros(1, np.int64)
    return np.asarray(tensor.quant.scale, np.float64), np.asarray(tensor.quant.zero_point, np.int64)


def zero_point(tensor: Tensor) -> np.ndarray:
    """What stands for zero, int64, one value or one a channel."""
    return parameters(tensor)[1]


def _rounded(w: _Writer, x: str, factor: Any, bias: Any = None) -> str:
    """``floor((x + bias) * factor + 1/2)``, whole numbers in float64: 53 bits hold every product here."""
    y = w.op("Cast", [x], to=TensorProto.DOUBLE)
    if bias is not None:
        y = w.op("Add", [y, w.channels(bias)])
    return _halves_up(w, w.op("Mul", [y, w.channels(factor)]))


def _product(w: _Writer, a: str, b: str, factor: float) -> str:
    """``floor(a * b * factor + 1/2)`` of two tensors."""
    y = w.op("Mul", [w.op("Cast", [x], to=TensorProto.DOUBLE) for x in (a, b)])
    return _halves_up(w, w.op("Mul", [y, w.channels(factor)]))


def _halves_up(w: _Writer, x: str) -> str:
    return w.op("Floor", [w.op("Add", [x, w.channels(0.5)])])


def _saturated16(w: _Writer, x: str) -> str:
    return w.clip(x, -32768, 32767)


def _finish(w: _Writer, node: Node, v: str, offset: Any = 0, low: int = -128, high: int = 127) -> None:
    """``v`` is saturated to 16 bits; an int8 result is moved by ``offset`` and limited as well."""
    v = _saturated16(w, v)
    if w.graph.tensor(node.output).dtype == "int8":
        v = w.clip(w.op("Add", [v, w.channels(offset)]), low, high)
    w.store(w.op("Cast", [v], to=TensorProto.FLOAT), node)


def _requantized(w: _Writer, node: Node, acc: str, bias: np.ndarray, r: q.Requant) -> None:
    y = _rounded(w, acc, r.multiplier.astype(np.float64) * 2.0 ** (r.shift - 31), bias)
    if r.right is not None:
        y = _halves_up(w, w.op("Mul", [y, w.channels(2.0 ** -r.right.astype(np.float64))]))
    _finish(w, node, y, r.offset, r.low, r.high)


def _conv(w: _Writer, node: q.QConv) -> None:
    source = w.graph.tensor(node.inputs[0])
    zero = zero_point(source)
    per_group = node.weight.shape[3]
    zeros = np.broadcast_to(zero, source.shape[2]).reshape(node.groups, 1, per_group)
    sums = node.weight.sum(axis=(1, 2), dtype=np.int64).reshape(node.groups, -1, per_group)
    bias = node.bias + (sums * zeros).sum(axis=2).ravel()
    parts = _parts(node)
    if len(parts) == 1 and source.dtype == "int8":
        acc = _sums(w, node, w.read(node.inputs[0], zero), node.weight)
    else:
        axis, several = w.constant([1], np.int64), []
        zeros = np.broadcast_to(zero, source.shape[2])
        for part in parts:
            cut = node.inputs[0]
            channels = slice(None)
            if len(parts) > 1:
                # The stored tensor is cut: onnxruntime's optimiser mistakes a cut behind DequantizeLinear.
                ends = [w.constant([n], np.int64) for n in (part.start, part.stop)]
                cut, channels = w.op("Slice", [cut, *ends, axis]), part
            x = w.dequantize(cut, 1.0, zeros[channels], source.dtype)
            for digit, factor in _digits(w, x, source.dtype):
                total = w.op("Cast", [_sums(w, node, digit, node.weight[..., part])], to=TensorProto.DOUBLE)
                several.append(total if factor == 1.0 else w.op("Mul", [total, w.channels(factor)]))
        acc = w.op("Sum", several)
    _requantized(w, node, acc, bias, node.requant)


def _digits(w: _Writer, x: str, dtype: str) -> list[tuple[str, float]]:
    """Whole numbers as sums of some of at most 9 bits, times a factor."""
    if dtype == "int8":
        return [(x, 1.0)]
    high = w.op("Floor", [w.op("Mul", [x, w.constant(1 / 256)])])
    low = w.op("Sub", [x, w.op("Mul", [high, w.constant(256)])])
    return [(high, 256.0), (low, 1.0)]


def _parts(node: q.QConv) -> list[slice]:
    """Input channels in parts whose sums stay below 2**24, where float32 is exact."""
    reach = int(np.abs(node.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0)) * 255
    if reach < _EXACT:
        return [slice(0, node.weight.shape[3])]
    if node.groups > 1:
        raise Mnv3cError("sums beyond 24 bits in a group, which float32 does not hold", f"node {node.name}")
    taps = node.kernel[0] * node.kernel[1]
    step = max(1, (_EXACT - 1) // (taps * 255 * int(np.abs(node.weight.astype(np.int64)).max())))
    return [slice(i, min(i + step, node.weight.shape[3])) for i in range(0, node.weight.shape[3], step)]


def _sums(w: _Writer, node: q.QConv, x: str, integers: np.ndarray) -> str:
    """The convolution's exact sums, whole numbers in float32."""
    kind = "int8" if integers.dtype == np.int8 else "int16"
    weight = w.constant(integers.transpose(0, 3, 1, 2), np.dtype(kind))
    top, left, bottom, right = node.pad
    return w.op(
        "Conv",
        [x, w.dequantize(weight, 1.0, 0, kind)],
        kernel_shape=list(node.kernel),
        strides=list(node.stride),
        pads=[top, left, bottom, right],
        dilations=list(node.dilation),
        group=node.groups,
    )


def _hard_swish(w: _Writer, node: q.QHardSwish) -> None:
    x = w.read(node.inputs[0])
    wide = w.op("Cast", [x], to=TensorProto.DOUBLE)
    gate = _saturated16(w, w.op("Mul", [wide, w.channels(2.0**node.shift)]))
    y = _saturated16(w, w.op("Add", [wide, _saturated16(w, _product(w, wide, gate, 2.0**-15))]))
    _finish(w, node, _rounded(w, y, node.multiplier * 2.0**-15), node.offset)


def _hard_sigmoid(w: _Writer, node: q.QHardSigmoid) -> None:
    x = w.op("Cast", [w.read(node.inputs[0])], to=TensorProto.DOUBLE)
    y = w.clip(w.op("Add", [x, w.channels(node.offset)]), 0, 32767)
    w.store(w.op("Cast", [y], to=TensorProto.FLOAT), node)


def _lut(w: _Writer, node: q.QLut) -> None:
    index = w.op("Add", [w.op("Cast", [node.inputs[0]], to=TensorProto.INT32), w.constant(128, np.int32)])
    w.op("Gather", [w.constant(node.table, np.int8), index], node.output)


def _add(w: _Writer, node: q.QAdd) -> None:
    terms = []
    for name, multiplier in zip(node.inputs, node.multipliers, strict=True):
        narrow = w.graph.tensor(name).dtype == "int8"
        factor = multiplier * 2.0 ** (-7 if narrow else -15)
        # A multiplier of 0 says that a 16-bit operand is in the sum's units.
        terms.append(_rounded(w, w.read(name), factor if narrow or multiplier else 1.0))
    total = _saturated16(w, w.op("Add", terms))
    total = _saturated16(w, w.op("Add", [total, w.channels(node.bias)]))
    _finish(w, node, _rounded(w, total, 2.0**-node.fraction), 0, node.low, node.high)


def _add32(w: _Writer, node: q.QAdd32) -> None:
    pairs = zip(node.inputs, node.multipliers, strict=True)
    terms = [_rounded(w, w.read(name), float(multiplier)) for name, multiplier in pairs]
    y = _rounded(w, w.op("Add", terms), 2.0**-node.shift, node.bias)
    _finish(w, node, y, node.offset, node.low, node.high)


def _add16(w: _Writer, node: q.QAdd16) -> None:
    pairs = zip(node.inputs, node.multipliers, strict=True)
    terms = [_rounded(w, w.read(name), multiplier * 2.0**-15) for name, multiplier in pairs]
    _finish(w, node, w.op("Add", terms))


def _sigmoid(w: _Writer, node: q.QSigmoid) -> None:
    x = w.op("Cast", [node.inputs[0]], to=TensorProto.DOUBLE)
    place = w.op("Mul", [w.op("Add", [x, w.channels(32768)]), w.channels(2.0**-8)])
    below = w.op("Floor", [place])
    index = w.op("Cast", [below], to=TensorProto.INT64)
    start, rise = (
        w.op("Gather", [w.constant(values, np.float64), index])
        for values in (node.table, np.diff(node.table))
    )
    line = _product(w, rise, w.op("Sub", [place, below]), 1.0)
    w.store(w.op("Cast", [w.op("Add", [start, line])], to=TensorProto.FLOAT), node)


def _multiply(w: _Writer, node: q.QMultiply) -> None:
    a, b = (w.read(name, zero) for name, zero in zip(node.inputs, node.zero_points, strict=True))
    y = _product(w, a, b, node.multiplier * 2.0 ** (node.shift - 31))
    if node.right:  # halves away from zero
        size = _rounded(w, w.op("Abs", [y]), 2.0**-node.right)
        y = w.op("Mul", [w.op("Sign", [y]), size])
    _finish(w, node, y, node.offset, node.low, node.high)


def _constant(w: _Writer, node: q.QConstant) -> None:
    w.op("Identity", [w.constant(node.values.transpose(2, 0, 1)[None], np.int8)], node.output)


def _gate(w: _Writer, node: q.QGate) -> None:
    gate = _rounded(w, w.read(node.inputs[1]), np.asarray(node.factor, np.float64) * 2.0**-15)
    x = w.read(node.inputs[0], np.asarray(node.zero_point, np.int64))
    y = _product(w, x, gate, 2.0 ** (node.shift - 15))
    _finish(w, node, y, node.offset, node.low, node.high)


def _channel_sum(w: _Writer, node: q.ChannelSum) -> None:
    axes = w.constant([2, 3], np.int64)
    x = w.op("Cast", [w.read(node.inputs[0])], to=TensorProto.DOUBLE)
    w.op("Cast", [w.op("ReduceSum", [x, axes], keepdims=1)], node.output, to=TensorProto.INT32)


def _requantize(w: _Writer, node: q.Requantize) -> None:
    _requantized(w, node, node.inputs[0], node.bias, node.requant)


def _mean(w: _Writer, node: q.QMean) -> None:
    x = w.op("Cast", [node.inputs[0]], to=TensorProto.DOUBLE)
    mean = w.op("Sub", [w.op("Div", [x, w.channels(node.count)]), w.channels(node.zero_point)])
    _finish(w, node, w.op("Round", [mean]), node.zero_point, node.low, node.high)


def _softmax(w: _Writer, node: q.QSoftmax) -> None:
    height, width, channels = w.graph.tensor(node.inputs[0]).shape
    runs = w.constant([1, node.groups, channels // node.groups, height * width], np.int64)
    axis = w.constant([2], np.int64)
    x = w.op("Reshape", [w.op("Cast", [node.inputs[0]], to=TensorProto.INT32), runs])
    below = w.op("Sub", [w.op("ReduceMax", [x, axis], keepdims=1), x])
    table, scaled = (
        w.op("Gather", [w.constant(values, np.float64), below]) for values in (node.table, node.scaled)
    )
    total = w.op("ReduceSum", [table, axis], keepdims=1)
    half = w.op("Floor", [w.op("Mul", [total, w.channels(0.5)])])
    # Below 2**32, so that the quotient of two whole numbers in float64 is never rounded to the next.
    y = w.op("Floor", [w.op("Div", [w.op("Add", [scaled, half]), total])])
    limits = np.iinfo(w.graph.tensor(node.output).dtype)
    y = w.clip(w.op("Add", [y, w.channels(node.offset)]), limits.min, limits.max)
    whole = w.constant([1, channels, height, width], np.int64)
    w.store(w.op("Cast", [w.op("Reshape", [y, whole])], to=TensorProto.FLOAT), node)


def _max_pool(w: _Writer, node: q.QMaxPool) -> None:
    y = w.op(
        "MaxPool",
        [w.read(node.inputs[0])],
        kernel_shape=list(node.kernel),
        strides=list(node.stride),
        pads=list(node.pad),
    )
    w.store(y, node)


def _quantize(w: _Writer, node: q.Quantize) -> None:
    # Not QuantizeLinear's division by a scale: the library multiplies by the inverse.
    x = w.op("Mul", [node.inputs[0], w.constant(np.reshape(node.inverse_scale, (1, -1, 1, 1)))])
    dtype = w.graph.tensor(node.output).dtype
    w.quantize(x, node.output, 1.0, node.zero_point, dtype)


def _flip_sign(w: _Writer, node: q.FlipSign) -> None:
    zeros = {"uint8": 128, "int8": 0}
    source, target = (w.graph.tensor(name).dtype for name in (node.inputs[0], node.output))
    w.quantize(w.read(node.inputs[0], zeros[source]), node.output, 1.0, zeros[target], target)


def _dequantize(w: _Writer, node: q.Dequantize) -> None:
    tensor = w.graph.tensor(node.inputs[0])
    y = w.dequantize(node.inputs[0], node.scale, node.zero_point, tensor.dtype)
    w.op("Identity", [y], node.output)


_RULES: dict[type[Node], Callable[[_Writer, Any], None]] = {
    q.QConv: _conv,
    q.QHardSwish: _hard_swish,
    q.QHardSigmoid: _hard_sigmoid,
    q.QLut: _lut,
    q.QAdd: _add,
    q.QAdd32: _add32,
    q.QAdd16: _add16,
    q.QSigmoid: _sigmoid,
    q.QMultiply: _multiply,
    q.QConstant: _constant,
    q.QGate: _gate,
    q.ChannelSum: _channel_sum,
    q.Requantize: _requantize,
    q.QMean: _mean,
    q.QMaxPool: _max_pool,
    q.QSoftmax: _softmax,
    q.Quantize: _quantize,
    q.FlipSign: _flip_sign,
    q.Dequantize: _dequantize,
}
