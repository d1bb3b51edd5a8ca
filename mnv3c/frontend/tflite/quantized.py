"""Quantised TFLite models to the integer graph, with the model's own scales.

Why not through Relax, as the float front ends go: the Relax importer turns quantised operators into
float ones between ``dequantize`` and ``quantize``, h-swish among them, and what TFLite's kernels do in
fixed point (which halves round where, how the gate's table is cut) is then no longer in the program.
Here every element-wise operator becomes a table with exactly the entries that LiteRT computes, and
convolutions, adds and pools keep their integers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized import spatial as moves
from mnv3c.frontend.quantized.builder import Builder
from mnv3c.frontend.quantized.values import Affine, Value, Window, ends
from mnv3c.frontend.tflite import arithmetic, spatial
from mnv3c.frontend.tflite import operators as ops
from mnv3c.frontend.tflite.detection import Detection, Map, split
from mnv3c.frontend.tflite.reader import Model, TensorInfo
from mnv3c.ir.broadcast import shortest
from mnv3c.ir.detection import attach, with_detection
from mnv3c.ir.graph import Graph
from mnv3c.ir.verify import InvalidGraph, verify

_NARROW = ("uint8", "int8")
# What may stand between a softmax and an output.
_NOTHING = ("RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE")

# LiteRT's default engine (XNNPACK) does not take a ratio of scales from here up and leaves such a model
# to TFLite's built-in kernels.
_LARGEST_RATIO = 256.0


def import_quantized(model: Model, *, round_weights: bool = False, round_twice: bool | None = None) -> Graph:
    """The integer graph of ``model``; options as in ``quantized.load``.

    Raises:
        Mnv3cError: names the tensor or operator that is at fault or not supported.
    """
    model, detection = split(model)
    importer = _Importer(
        model, round_weights, needs_built_in_kernels(model) if round_twice is None else round_twice
    )
    importer.doors()
    for info in model.operators:
        for op in ops.decode(model, info):
            importer.check_order(op)
            importer.rules[type(op)](op)
    return importer.finish() if detection is None else importer.finish_detector(detection)


def needs_built_in_kernels(model: Model) -> bool:
    """Whether a convolution's requantisation is beyond what LiteRT's default engine takes."""
    for op in model.operators:
        operands = [model.tensors[i] for i in (*op.inputs[:2], *op.outputs[:1]) if i >= 0]
        if op.name.endswith(("CONV_2D", "FULLY_CONNECTED")) and len(operands) == 3:
            x, weight, y = operands
            known = bool(x.scale and weight.scale and y.scale)
            if known and max(weight.scale) * x.scale[0] / y.scale[0] >= _LARGEST_RATIO:
                return True
    return False


class _Importer:
    def __init__(self, model: Model, round_weights: bool, round_twice: bool) -> None:
        self.model = model
        self.builder = Builder(round_weights=round_weights, round_twice=round_twice)
        self.values: dict[int, Value] = {}  # by the tensor's number
        self.floats: set[int] = set()  # tensors that are the float form of their value
        self.after_softmax: set[int] = set()
        self.float_inputs: dict[int, TensorInfo] = {}
        self.rules: dict[type, Callable[..., None]] = {
            ops.Convolution: self.convolution,
            ops.Binary: self.binary,
            ops.Unary: self.unary,
            ops.AveragePool: self.average_pool,
            ops.Mean: self.mean,
            ops.Alias: self.alias,
            ops.Convert: self.convert,
            ops.Softmax: self.softmax,
            spatial.Resize: self.resize,
            spatial.ArgMax: self.argmax,
            spatial.Concat: self.concat,
            spatial.Pad: self.pad,
            spatial.Slice: self.slice,
            spatial.TransposedConvolution: self.convolution,
            spatial.MaxPool: self.max_pool,
        }

    # ---- doors ----

    def doors(self) -> None:
        for index in self.model.inputs:
            t = self.model.tensors[index]
            if t.dtype == "float32":
                ops.shape_of(t, self.model.path)
                self.float_inputs[index] = t
            elif index not in self.values:
                shape = ops.shape_of(t, self.model.path)
                self.values[index] = self.builder.input(t.name, shape, t.dtype, self.affine(t))

    def finish(self) -> Graph:
        for index in self.model.outputs:
            t = self.model.tensors[index]
            if index not in self.values:
                raise Mnv3cError("is an output that no operator computes", f"{self.model.path}: {t.place}")
            name = t.name
            if index in self.after_softmax:
                name = f"{t.name}_logits"
            self.builder.output(self.values[index], "float32" if index in self.floats else t.dtype, name)
        return self.graph()

    def finish_detector(self, detection: Detection) -> Graph:
        """The head's maps as the detection reads them, and the detection behind them."""
        for each in (*detection.boxes, *detection.scores):
            x = self.on_its_way(each, detection)
            self.builder.output(x, "int8", f"{each.tensor.name}_map")
        try:
            return verify(attach(with_detection(self.graph(), detection.anchors, detection.settings)))
        except InvalidGraph as error:
            raise Mnv3cError(str(error), detection.place) from None

    def on_its_way(self, each: Map, detection: Detection) -> Value:
        """A map with every rounding that the model does between its head and the detection."""
        x = self.value(each.tensor, detection.place, floats=True)
        for name, t in each.steps:
            if name == "SOFTMAX":
                x = self.soften(x, t, detection)
            elif name == "LOGISTIC" and t.dtype != "float32":
                out = self.affine(t)
                x = self.builder.table(x, arithmetic.logistic(x.affine, out), out, t.name)
            elif t.dtype != "float32" and x.affine != self.affine(t):
                out = self.affine(t)
                rescale = arithmetic.join if name == "CONCATENATION" else arithmetic.requantize
                x = self.builder.table(x, rescale(x.affine, out), out, t.name)
        return x

    def soften(self, x: Value, t: TensorInfo, detection: Detection) -> Value:
        """A softmax over each anchor's classes; one in float gives 16 bits, which the detection reads."""
        real = t.dtype == "float32"
        affine, dtype = (Affine(2.0**-15, 0), "int16") if real else (self.affine(t), "int8")
        groups = x.shape[2] // detection.classes
        name, place = f"{x.name}_softmax", detection.place
        return moves.softmax(self.builder, x, affine, name, place, groups=groups, dtype=dtype)

    def graph(self) -> Graph:
        """All of it, verified."""
        source = PurePath(self.model.path)
        meta: dict[str, object] = {
            "source": "tflite",
            "file": source.name,
            "format": "TFLite, quantised",
            "input_layout": "NHWC",
        }
        return self.builder.finish(source.stem, meta)

    def check_order(self, op: ops.Operator) -> None:
        """An operator reads what is computed before it, and writes what nobody else wrote."""
        written = op.output.index in self.values or op.output.index in self.float_inputs
        if written or op.output.data is not None:
            raise Mnv3cError(f"writes {op.output.name}, which is already there", op.place)
        if isinstance(op, ops.Convert):
            return
        for t in (op.x, getattr(op, "y", None), *getattr(op, "parts", ())):
            if t is not None and t.data is None:
                self.value(t, op.place, floats=isinstance(op, ops.Softmax | ops.Alias))

    # ---- tensors ----

    def affine(self, t: TensorInfo) -> Affine:
        where = f"{self.model.path}: {t.place}"
        if t.dtype == "int16":
            raise Mnv3cError("is int16; models with 16-bit activations are not supported", where)
        if t.dtype not in _NARROW:
            raise Mnv3cError(f"is {t.dtype}; int8 and uint8 are supported in a quantised model", where)
        if not t.scale:
            raise Mnv3cError("has no scale", where)
        if len(t.scale) != 1:
            raise Mnv3cError(f"has {len(t.scale)} scales; one is supported for an activation", where)
        zero_point = t.zero_point[0] - (128 if t.dtype == "uint8" else 0)
        if not -128 <= zero_point <= 127:
            raise Mnv3cError(f"has zero point {t.zero_point[0]}, which is no {t.dtype}", where)
        return Affine(t.scale[0], zero_point)

    def value(self, t: TensorInfo, place: str, floats: bool = False) -> Value:
        if t.index in self.values and (floats or t.index not in self.floats):
            return self.values[t.index]
        if t.index in self.float_inputs or t.index in self.floats:
            raise Mnv3cError(
                f"works on the float tensor {t.name} (a dynamic-range or mixed model); all of the network"
                " has to be int8 or uint8",
                place,
            )
        raise Mnv3cError(f"reads {t.name} before it is computed", place)

    def constant(self, t: TensorInfo) -> np.ndarray:
        """A constant operand's values as int8 ``(H, W, C)``."""
        assert t.data is not None
        values = t.data.astype(np.int16) - (128 if t.dtype == "uint8" else 0)
        return values.astype(np.int8).reshape(ops.operand_shape(t, self.model.path))

    # ---- operators ----

    def convolution(self, op: ops.Convolution) -> None:
        assert op.weight is not None
        weight, scale = self.weights(op, op.weight)
        bias = np.zeros(weight.shape[0], np.int64)
        if op.bias is not None and op.bias.data is not None:
            if op.bias.dtype != "int32":
                raise Mnv3cError(f"its bias is {op.bias.dtype}; int32 is supported", op.place)
            bias = op.bias.data.astype(np.int64)
        x, window = self.value(op.x, op.place), op.window
        if isinstance(op, spatial.TransposedConvolution):
            # Pixels set apart, then a plain convolution with the kernel turned round.
            x, weight = (
                moves.spread(self.builder, x, weight.shape[1:3], window, op.output.name),
                weight[:, ::-1, ::-1],
            )
            window = Window()
        self.values[op.output.index] = self.builder.conv(
            x,
            weight=np.ascontiguousarray(weight),
            weight_scale=scale,
            bias=bias,
            window=window,
            groups=op.groups,
            affine=self.affine(op.output),
            low=op.low,
            high=op.high,
            place=op.place,
            name=op.output.name,
        )

    def weights(self, op: ops.Convolution, t: TensorInfo) -> tuple[np.ndarray, np.ndarray]:
        """Integer weights less their zero points, and their scales."""
        where = f"{self.model.path}: {t.place}"
        if t.dtype not in _NARROW:
            raise Mnv3cError(f"is a weight of {t.dtype}; int8 and uint8 are supported", where)
        if not t.scale:
            raise Mnv3cError("is a weight without a scale", where)
        if len(t.scale) > 1 and t.axis != op.channel_axis:
            raise Mnv3cError(f"has scales along axis {t.axis}; along output channels is supported", where)
        weight = op.weights().astype(np.int64)
        zero_point = np.asarray(t.zero_point, np.int64).reshape(-1, 1, 1, 1)
        low, high = (0, 255) if t.dtype == "uint8" else (-128, 127)
        if ((zero_point < low) | (zero_point > high)).any():
            raise Mnv3cError(f"has a zero point that is no {t.dtype}", where)
        return weight - zero_point, np.asarray(t.scale)

    def binary(self, op: ops.Binary) -> None:
        assert op.y is not None
        x = self.value(op.x, op.place)
        out = self.affine(op.output)
        fixed = op.y.data is not None
        if fixed:
            y_affine, constant = self.affine(op.y), shortest(self.constant(op.y), x.shape)
            if constant.size == 1:
                self.values[op.output.index] = self.with_number(op, x, y_affine, int(constant.flat[0]))
                return
            y = self.builder.constant(constant, y_affine, op.y.name)
        else:
            y = self.value(op.y, op.place)
        if op.kind == "MUL":
            self.values[op.output.index] = self.product(op, x, y, out)
            return
        if op.kind == "SUB" and not fixed:
            raise Mnv3cError("subtracts two tensors; of a constant alone is supported", op.place)
        self.values[op.output.index] = self.builder.add(
            x,
            y,
            affine=out,
            low=op.low,
            high=op.high,
            place=op.place,
            name=op.output.name,
            # XNNPACK adds with 20 bits, the built-in kernels with all 31.
            bits=22 if self.builder.round_twice else 20,
            signs=(1, -1 if op.kind == "SUB" else 1),
        )

    def with_number(self, op: ops.Binary, x: Value, affine: Affine, number: int) -> Value:
        """A sum or product with one constant: a table."""
        out = self.affine(op.output)
        limits = out.clamp(op.low, op.high)
        if op.kind == "MUL":
            table = arithmetic.multiply_constant(x.affine, affine, number, out, limits)
        else:
            sign = -1 if op.kind == "SUB" else 1
            table = arithmetic.add_constant(x.affine, affine, number, sign, out, limits)
        return self.builder.table(x, table, out, op.output.name)

    def product(self, op: ops.Binary, x: Value, y: Value, out: Affine) -> Value:
        """An SE gate, or a product of two functions of the same tensor (a decomposed h-swish)."""
        if x.tensor == y.tensor and x.shape == y.shape:
            limits = out.clamp(op.low, op.high)
            table = arithmetic.multiply_tables(x.table, x.affine, y.table, y.affine, out, limits)
            return self.builder.table(Value(x.name, x.tensor, x.shape, x.affine), table, out, op.output.name)
        return self.builder.multiply(
            x, y, affine=out, low=op.low, high=op.high, place=op.place, name=op.output.name
        )

    def unary(self, op: ops.Unary) -> None:
        x, out = self.value(op.x, op.place), self.affine(op.output)
        if op.kind == "HARD_SWISH":
            table = arithmetic.hard_swish(x.affine, out)
        elif op.kind == "LOGISTIC":
            table = arithmetic.logistic(x.affine, out)
        else:
            low, high = ops.CLIPS[op.kind]
            table = np.clip(arithmetic.requantize(x.affine, out), *out.clamp(low, high)).astype(np.int8)
        self.values[op.output.index] = self.builder.table(x, table, out, op.output.name)

    def average_pool(self, op: ops.AveragePool) -> None:
        x, out = self.value(op.x, op.place), self.affine(op.output)
        whole = op.kernel == x.shape[:2] and not any(op.window.pad)
        if x.affine == out and not whole:
            self.values[op.output.index] = moves.window_mean(
                self.builder,
                x,
                op.kernel,
                op.window,
                limits=out.clamp(op.low, op.high),
                away=op.output.dtype == "int8",
                name=op.output.name,
            )
            return
        self.values[op.output.index] = self.builder.average(
            x, op.kernel, op.window, affine=out, low=op.low, high=op.high, place=op.place, name=op.output.name
        )

    def mean(self, op: ops.Mean) -> None:
        x, out = self.value(op.x, op.place), self.affine(op.output)
        self.values[op.output.index] = self.builder.mean(
            x,
            affine=out,
            low=op.low,
            high=op.high,
            place=op.place,
            name=op.output.name,
            zero_apart=self.builder.round_twice,
        )

    def resize(self, op: spatial.Resize) -> None:
        x, size = self.value(op.x, op.place), ops.shape_of(op.output, self.model.path)[:2]
        moves.same_scale(x, self.affine(op.output), op.place)
        self.values[op.output.index] = moves.resize(
            self.builder,
            x,
            size,
            kind=op.kind,
            coordinates=op.coordinates,
            rounding=op.rounding,
            name=op.output.name,
        )

    def argmax(self, op: spatial.ArgMax) -> None:
        if op.output.index not in self.model.outputs:
            raise Mnv3cError("is supported at the end alone", op.place)
        x = self.value(op.x, op.place)
        self.values[op.output.index] = moves.argmax(self.builder, x, op.output.name)

    def concat(self, op: spatial.Concat) -> None:
        parts, out = [self.value(t, op.place) for t in op.parts], self.affine(op.output)
        if np.isfinite(op.low) or np.isfinite(op.high):
            raise Mnv3cError("has a fused activation, which is not supported", op.place)
        parts = [
            x
            if x.affine == out
            else self.builder.table(x, arithmetic.join(x.affine, out), out, f"{x.name}_part")
            for x in parts
        ]
        self.values[op.output.index] = moves.concat(self.builder, parts, op.axis, out, op.output.name)

    def pad(self, op: spatial.Pad) -> None:
        x = self.value(op.x, op.place)
        moves.same_scale(x, self.affine(op.output), op.place)
        self.values[op.output.index] = moves.pad(self.builder, x, op.pad, op.output.name)

    def slice(self, op: spatial.Slice) -> None:
        x = self.value(op.x, op.place)
        moves.same_scale(x, self.affine(op.output), op.place)
        shape = ops.shape_of(op.output, self.model.path)
        self.values[op.output.index] = moves.part(self.builder, x, op.begin, shape, op.output.name)

    def max_pool(self, op: spatial.MaxPool) -> None:
        x, out = self.value(op.x, op.place), self.affine(op.output)
        moves.same_scale(x, out, op.place)
        limits = out.clamp(op.low, op.high)
        self.values[op.output.index] = moves.max_pool(
            self.builder, x, op.kernel, op.window, limits, op.output.name
        )

    def alias(self, op: ops.Alias) -> None:
        x = self.value(op.x, op.place, floats=True)
        self.pass_on(op, x)
        if op.x.index in self.floats:
            self.floats.add(op.output.index)
        elif self.affine(op.output) != self.affine(op.x) and op.x.index not in self.after_softmax:
            raise Mnv3cError("changes the scale, which it may not", op.place)

    def convert(self, op: ops.Convert) -> None:
        if op.output.dtype == "float32":
            self.pass_on(op, self.value(op.x, op.place))
            self.floats.add(op.output.index)
        elif op.x.index in self.float_inputs:
            shape = ops.shape_of(op.x, self.model.path)
            out = self.affine(op.output)
            if any(t.index in self.values for t in (op.x,)):
                raise Mnv3cError(f"quantises {op.x.name} a second time", op.place)
            self.values[op.output.index] = self.builder.input(
                op.x.name, shape, "float32", out, op.output.name
            )
            self.values[op.x.index] = self.values[op.output.index]
            self.floats.add(op.x.index)
        elif op.x.index in self.after_softmax:
            self.pass_on(op, self.value(op.x, op.place, floats=True))
        else:
            x, out = self.value(op.x, op.place), self.affine(op.output)
            self.values[op.output.index] = self.builder.table(
                x, arithmetic.requantize(x.affine, out), out, op.output.name
            )

    def softmax(self, op: ops.Softmax) -> None:
        if not ends(
            op.output.index, ((o.name in _NOTHING, o.inputs, o.outputs) for o in self.model.operators)
        ):
            x, out = self.value(op.x, op.place), self.affine(op.output)
            self.values[op.output.index] = moves.softmax(self.builder, x, out, op.output.name, op.place)
            return
        x = self.value(op.x, op.place, floats=True)
        self.values[op.output.index] = x
        self.after_softmax.add(op.output.index)
        if op.output.dtype == "float32":
            self.floats.add(op.output.index)
        self.builder.notes.append(
            "the softmax at the end is left out: the output is logits, in the same order"
        )

    def pass_on(self, op: ops.Operator, x: Value) -> None:
        self.values[op.output.index] = x
        if op.x.index in self.after_softmax:
            self.after_softmax.add(op.output.index)
