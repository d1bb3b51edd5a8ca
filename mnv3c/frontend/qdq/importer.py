"""ONNX models in QDQ form to the integer graph, with the model's own scales.

In QDQ form every operator is a float one between ``DequantizeLinear`` and ``QuantizeLinear``. What an
operator computes stays *pending* until the ``QuantizeLinear`` after it says how it is stored. Functions
of one stored tensor (activations, products and sums with constants, and their combinations, such as a
decomposed h-swish) are carried along as their 256 possible float32 values, which a ``QuantizeLinear``
turns into a table; so every form in which an activation can be written comes out the same.

Not by way of Relax: its importer keeps the same float operators between ``quantize`` and
``dequantize``, and all of them would have to be found and undone again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import PurePath

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.qdq.attributes import axes, clip_bounds, convolution_window
from mnv3c.frontend.qdq.reader import InputInfo, Model, NodeInfo
from mnv3c.frontend.qdq.reals import (
    BINARY,
    Constant,
    FloatInput,
    Function,
    Pending,
    Real,
    activate,
    quantize_float32,
    scalar,
)
from mnv3c.frontend.quantized import spatial as moves
from mnv3c.frontend.quantized.builder import Builder
from mnv3c.frontend.quantized.values import LARGEST_SCALE, SMALLEST_SCALE, Affine, Value, Window, ends
from mnv3c.ir.broadcast import shortest
from mnv3c.ir.graph import Graph, Shape


def import_qdq(model: Model, *, round_weights: bool = False) -> Graph:
    """The integer graph of ``model``.

    Raises:
        Mnv3cError: names the node or tensor that is at fault or not supported.
    """
    importer = _Importer(model, round_weights)
    for node in model.nodes:
        importer.node(node)
    return importer.finish()


class _Importer:
    def __init__(self, model: Model, round_weights: bool) -> None:
        self.model = model
        self.builder = Builder(round_weights=round_weights)
        self.stored: dict[str, Value] = {}  # results of QuantizeLinear
        self.signed: dict[str, bool] = {}
        self.reals: dict[str, Real] = {}
        self.after_softmax: set[str] = set()
        self.inputs = {i.name: i for i in model.inputs}
        for info in model.inputs:
            if info.dtype == "float32":
                self.reals[info.name] = FloatInput(info)
        for name, array in model.constants.items():
            if array.dtype in (np.float32, np.float64):
                self.reals[name] = Constant(array)

    # ---- walking ----

    def node(self, node: NodeInfo) -> None:
        rule = _RULES.get(node.op)
        if rule is None:
            known = ", ".join(sorted(_RULES))
            hint = "; the QLinear form is not supported, QDQ is" if node.op.startswith("QLinear") else ""
            raise Mnv3cError(f"is not supported{hint}; supported are {known}", node.place)
        if node.inputs and node.inputs[0] in self.after_softmax:
            self.after_softmax.add(node.outputs[0])
        if any(o in self.stored or o in self.reals for o in node.outputs):
            raise Mnv3cError("writes a value that is already there", node.place)
        try:
            rule(self, node)
        except (IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise Mnv3cError(f"is malformed: {type(error).__name__}: {error}", node.place) from None

    def finish(self) -> Graph:
        for name in self.model.outputs:
            place = f"{self.model.path}: output {name}"
            out_name = f"{name}_logits" if name in self.after_softmax else name
            real = self.reals.get(name)
            if name in self.stored:
                self.builder.output(self.stored[name], "int8" if self.signed.get(name) else "uint8", out_name)
            elif isinstance(real, Function) and real.exact:
                self.builder.output(real.value, "float32", out_name)
            elif real is None:
                raise Mnv3cError("is computed by no node", place)
            else:
                raise Mnv3cError("is not quantised: its operator is not followed by a QuantizeLinear", place)
        source = PurePath(self.model.path)
        meta: dict[str, object] = {
            "source": self.model.source,
            "file": source.name,
            "format": self.model.format,
            "input_layout": "NCHW",
        }
        return self.builder.finish(source.stem, meta)

    def real(self, node: NodeInfo, i: int) -> Real:
        name = node.inputs[i]
        if name in self.reals:
            return self.reals[name]
        if name in self.stored or name in self.inputs:
            raise Mnv3cError(f"reads {name}, which is quantised, without a DequantizeLinear", node.place)
        raise Mnv3cError(f"reads {name!r}, which no node before it computes", node.place)

    def exact(self, node: NodeInfo, i: int) -> Value:
        """Operand ``i``, which has to be a stored tensor."""
        real = self.real(node, i)
        if isinstance(real, Function) and real.exact:
            return real.value
        raise Mnv3cError(
            f"reads {node.inputs[i]}, which is not quantised (a DequantizeLinear is missing)", node.place
        )

    # ---- Q and DQ ----

    def scale_of(self, node: NodeInfo) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point of a Q or DQ node, checked; the zero point keeps its dtype."""
        if node.attribute("block_size", 0):
            raise Mnv3cError("quantises in blocks, which is not supported", node.place)
        if len(node.inputs) < 2 or node.inputs[1] not in self.model.constants:
            raise Mnv3cError("has no constant scale", node.place)
        scale = self.model.constants[node.inputs[1]].astype(np.float32).ravel()
        if scale.size < 1 or not ((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE)).all():
            raise Mnv3cError(f"has a scale {node.inputs[1]} that is not positive or out of range", node.place)
        zero_point = np.zeros(scale.size, np.uint8)
        if len(node.inputs) > 2 and node.inputs[2]:
            if node.inputs[2] not in self.model.constants:
                raise Mnv3cError("has a zero point that is not constant", node.place)
            zero_point = self.model.constants[node.inputs[2]].ravel()
        if zero_point.dtype not in (np.uint8, np.int8, np.int32):
            raise Mnv3cError(f"quantises to {zero_point.dtype}; int8 and uint8 are supported", node.place)
        if zero_point.size != scale.size:
            raise Mnv3cError(f"has {scale.size} scales but {zero_point.size} zero points", node.place)
        return scale, zero_point

    def affine(self, node: NodeInfo) -> tuple[Affine, bool]:
        """Of an activation, as int8; and whether the model's own type is int8."""
        scale, zero_point = self.scale_of(node)
        if scale.size != 1:
            raise Mnv3cError(f"has {scale.size} scales; one is supported for an activation", node.place)
        if zero_point.dtype == np.int32:
            raise Mnv3cError("quantises an activation to int32", node.place)
        signed = zero_point.dtype == np.int8
        return Affine(float(scale[0]), int(zero_point[0]) - (0 if signed else 128)), signed

    def quantize(self, node: NodeInfo) -> None:
        affine, signed = self.affine(node)
        out, real = node.outputs[0], self.real(node, 0)
        self.signed[out] = signed
        if isinstance(real, FloatInput):
            shape = self.input_shape(real.info)
            if real.info.name in {t.name for t in self.model.inputs if t.name in self.stored}:
                raise Mnv3cError(f"quantises {real.info.name} a second time", node.place)
            self.stored[out] = self.builder.input(real.info.name, shape, "float32", affine, out)
        elif isinstance(real, Pending):
            self.stored[out] = real.emit(affine, real.low, real.high, out)
        elif isinstance(real, Function):
            if out in self.after_softmax or (real.exact and real.value.affine == affine):
                self.stored[out] = real.value
                return
            table = quantize_float32(real.reals, affine)
            base = Value(real.value.name, real.value.tensor, real.value.shape, real.value.affine)
            self.stored[out] = self.builder.table(base, table, affine, out)
        else:
            raise Mnv3cError("quantises a constant; constants have to be stored quantised", node.place)

    def dequantize(self, node: NodeInfo) -> None:
        name, out = node.inputs[0], node.outputs[0]
        if name in self.model.constants:
            self.reals[out] = self.constant(node, self.model.constants[name])
            return
        affine, signed = self.affine(node)
        if name in self.inputs and name not in self.stored:
            info = self.inputs[name]
            if info.dtype != ("int8" if signed else "uint8"):
                raise Mnv3cError(f"has a zero point of another type than {name}", node.place)
            self.stored[name] = self.builder.input(name, self.input_shape(info), info.dtype, affine)
            self.signed[name] = signed
        if name not in self.stored:
            raise Mnv3cError(f"reads {name!r}, which no QuantizeLinear before it computes", node.place)
        value = self.stored[name]
        if name in self.after_softmax:
            affine = value.affine
        value = Value(value.name, value.tensor, value.shape, affine, value.table)
        integers = value.table.astype(np.int32) - affine.zero_point
        self.reals[out] = Function(value, integers.astype(np.float32) * np.float32(affine.scale), exact=True)

    def constant(self, node: NodeInfo, array: np.ndarray) -> Constant:
        scale, zero_point = self.scale_of(node)
        if array.dtype not in (np.uint8, np.int8, np.int32):
            raise Mnv3cError(
                f"has a constant of {array.dtype}; int8, uint8 and int32 are supported", node.place
            )
        axis = int(node.attribute("axis", 1))
        shape = [1] * array.ndim
        if scale.size > 1:
            axis %= max(array.ndim, 1)
            if array.ndim == 0 or array.shape[axis] != scale.size:
                raise Mnv3cError(
                    f"has {scale.size} scales for axis {axis} of {list(array.shape)}", node.place
                )
            shape[axis] = scale.size
        integers = array.astype(np.int64) - zero_point.astype(np.int64).reshape(shape)
        return Constant(integers.astype(np.float32) * scale.reshape(shape), integers, scale, axis)

    def input_shape(self, info: InputInfo) -> Shape:
        place = f"{self.model.path}: input {info.name}"
        if len(info.shape) != 4 or info.shape[0] not in (0, 1) or min(info.shape[1:]) < 1:
            raise Mnv3cError(f"has shape {list(info.shape)}; [1, C, H, W] is supported", place)
        return info.shape[2], info.shape[3], info.shape[1]

    # ---- operators ----

    def convolution(self, node: NodeInfo) -> None:
        x = self.exact(node, 0)
        weight = self.real(node, 1)
        if not isinstance(weight, Constant) or weight.integers is None or weight.scale is None:
            raise Mnv3cError("has weights that are not quantised constants", node.place)
        integers, channel_axis, window, groups = weight.integers, 0, Window(), 1
        if node.op == "Conv":
            if integers.ndim != 4:
                raise Mnv3cError(f"has weights of shape {list(integers.shape)}", node.place)
            window, groups = (
                convolution_window(node, x.shape, integers.shape[2:]),
                int(node.attribute("group", 1)),
            )
            integers = integers.transpose(0, 2, 3, 1)
        else:
            if integers.ndim != 2 or x.shape[:2] != (1, 1):
                raise Mnv3cError(f"multiplies {x.shape} by {list(integers.shape)}", node.place)
            if node.op == "Gemm" and (
                node.attribute("transA", 0)
                or node.attribute("alpha", 1.0) != 1
                or node.attribute("beta", 1.0) != 1
            ):
                raise Mnv3cError("has transA, alpha or beta, which are not supported", node.place)
            transposed = node.op == "Gemm" and node.attribute("transB", 0)
            channel_axis = 0 if transposed else 1
            integers = (integers if transposed else integers.T)[:, None, None, :]
        if weight.scale.size > 1 and weight.axis != channel_axis:
            raise Mnv3cError(f"has weight scales along axis {weight.axis}", node.place)
        weight_scale = weight.scale.astype(np.float64)
        unit = np.float64(x.affine.scale) * weight_scale
        bias = self.bias(node, unit, integers.shape[0])
        self.reals[node.outputs[0]] = Pending(
            lambda affine, low, high, name: self.builder.conv(
                x,
                weight=integers,
                weight_scale=weight_scale,
                bias=bias,
                window=window,
                groups=groups,
                affine=affine,
                low=low,
                high=high,
                place=node.place,
                name=name,
            )
        )

    def bias(self, node: NodeInfo, unit: np.ndarray, channels: int) -> np.ndarray:
        """Integers in units of the accumulator."""
        if len(node.inputs) < 3 or not node.inputs[2]:
            return np.zeros(channels, np.int64)
        bias = self.real(node, 2)
        if not isinstance(bias, Constant) or bias.reals.shape != (channels,):
            raise Mnv3cError(f"has a bias that is not a constant [{channels}]", node.place)
        if (
            bias.integers is not None
            and bias.scale is not None
            and np.allclose(bias.scale, unit, rtol=1e-3, atol=0)
        ):
            return bias.integers
        return np.rint(bias.reals.astype(np.float64) / unit).astype(np.int64)

    def activation(self, node: NodeInfo) -> None:
        real, out = self.real(node, 0), node.outputs[0]
        if isinstance(real, Function):
            self.reals[out] = Function(real.value, activate(node, self.model, real.reals))
            return
        bounds = clip_bounds(node, self.model)
        if not isinstance(real, Pending) or bounds is None:
            raise Mnv3cError("works on a value that is not quantised before it", node.place)
        low, high = max(real.low, bounds[0]), min(real.high, bounds[1])
        self.reals[out] = Pending(real.emit, low, max(low, high))

    def binary(self, node: NodeInfo) -> None:
        a, b, out = self.real(node, 0), self.real(node, 1), node.outputs[0]
        apply = BINARY[node.op]
        number = None
        if isinstance(a, Function) and isinstance(b, Constant):
            number = scalar(b, a.value.shape)
        elif isinstance(a, Constant) and isinstance(b, Function):
            number = scalar(a, b.value.shape)
        if number is not None and isinstance(a, Function):
            self.reals[out] = Function(a.value, apply(a.reals, number))
        elif number is not None and isinstance(b, Function):
            self.reals[out] = Function(b.value, apply(number, b.reals))
        elif isinstance(a, Function) and isinstance(b, Function) and a.value.tensor == b.value.tensor:
            self.reals[out] = Function(a.value, apply(a.reals, b.reals))
        elif node.op in ("Add", "Mul") or (node.op == "Sub" and isinstance(b, Constant)):
            x, y = self.operand(node, 0), self.operand(node, 1)
            # Runtimes add QDQ operands in float32: 22 bits are as near to that as 32-bit sums allow.
            method: Callable[..., Value] = self.builder.multiply
            if node.op != "Mul":
                method = partial(self.builder.add, bits=22, signs=(1, -1 if node.op == "Sub" else 1))
            self.reals[out] = Pending(
                lambda affine, low, high, name: method(
                    x, y, affine=affine, low=low, high=high, place=node.place, name=name
                )
            )
        else:
            raise Mnv3cError("of two tensors is not supported", node.place)

    def operand(self, node: NodeInfo, i: int) -> Value:
        """Operand ``i`` of a sum or product as a tensor; a constant of several values becomes one."""
        constant = self.real(node, i)
        if not isinstance(constant, Constant):
            return self.exact(node, i)
        if constant.integers is None or constant.scale is None or constant.scale.size != 1:
            raise Mnv3cError(
                f"has a constant of {constant.reals.size} different values that is not quantised, or at"
                " several scales",
                node.place,
            )
        other = self.exact(node, 1 - i)
        values, dims = constant.integers, constant.integers.shape
        # A vector that lost its height and width has its channels last.
        if len(dims) < 3 and other.shape[:2] == (1, 1):
            values = values.reshape(*dims, 1, 1)
        values = values.reshape((1,) * (4 - values.ndim) + values.shape)
        low, high = int(values.min()), int(values.max())
        if values.ndim > 4 or values.shape[0] != 1 or high - low > 255:
            raise Mnv3cError(f"has a constant of shape {list(dims)} or of more than 8 bits", node.place)
        zero = min(max(0, -128 - low), 127 - high)
        stored = (values[0].transpose(1, 2, 0) + zero).astype(np.int8)
        scale = float(constant.scale.ravel()[0])
        return self.builder.constant(shortest(stored, other.shape), Affine(scale, zero), node.inputs[i])

    def pool(self, node: NodeInfo) -> None:
        x = self.exact(node, 0)
        if node.op == "AveragePool":
            kernel = tuple(int(k) for k in node.attribute("kernel_shape", ()))
            if len(kernel) != 2:
                raise Mnv3cError(f"has a kernel {kernel}", node.place)
            window = convolution_window(node, x.shape, kernel)
            self.reals[node.outputs[0]] = Pending(
                lambda affine, low, high, name: self.builder.average(
                    x,
                    (kernel[0], kernel[1]),
                    window,
                    affine=affine,
                    low=low,
                    high=high,
                    place=node.place,
                    name=name,
                )
            )
            return
        if node.op == "ReduceMean" and sorted(a % 4 for a in axes(node, self.model)) != [2, 3]:
            raise Mnv3cError("is not over height and width", node.place)
        self.reals[node.outputs[0]] = Pending(
            lambda affine, low, high, name: self.builder.mean(
                x, affine=affine, low=low, high=high, place=node.place, name=name, halves="even"
            )
        )

    def alias(self, node: NodeInfo) -> None:
        real, out = self.real(node, 0), node.outputs[0]
        if node.op not in ("Identity", "Dropout") and not (
            isinstance(real, Function) and real.value.shape[:2] == (1, 1)
        ):
            raise Mnv3cError("of anything but a dequantised vector is not supported", node.place)
        self.reals[out] = real

    def softmax(self, node: NodeInfo) -> None:
        x, out = self.exact(node, 0), node.outputs[0]
        axis = int(node.attribute("axis", -1 if self.model.opset >= 13 else 1))
        vector = x.shape[:2] == (1, 1)
        # Before opset 13 it runs over all axes from the given one on.
        if axis not in ((1, -1, -3) if vector else (1, -3)) or not (vector or self.model.opset >= 13):
            raise Mnv3cError(f"runs over axis {axis}, not over the channels", node.place)
        if not ends(out, ((n.op in _NOTHING, n.inputs, n.outputs) for n in self.model.nodes)):
            self.reals[out] = Pending(
                lambda affine, low, high, name: moves.limited(
                    self.builder,
                    moves.softmax(self.builder, x, affine, name, node.place),
                    affine.clamp(low, high),
                )
            )
            return
        self.reals[out] = self.reals[node.inputs[0]]
        self.after_softmax.add(out)
        self.builder.notes.append(
            "the softmax at the end is left out: the output is logits, in the same order"
        )


# What may stand between a softmax and an output.
_NOTHING = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Reshape", "Squeeze", "Flatten")
)

_RULES: dict[str, Callable[[_Importer, NodeInfo], None]] = {
    "QuantizeLinear": _Importer.quantize,
    "DequantizeLinear": _Importer.dequantize,
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _Importer.convolution),
    **dict.fromkeys(("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"), _Importer.activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _Importer.binary),
    **dict.fromkeys(("GlobalAveragePool", "AveragePool", "ReduceMean"), _Importer.pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Identity", "Dropout"), _Importer.alias),
    "Softmax": _Importer.softmax,
}
