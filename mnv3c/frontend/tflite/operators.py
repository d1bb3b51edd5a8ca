"""TFLite operators as typed, checked descriptions, the same for float and quantised models.

``decode`` checks what does not depend on whether the model is quantised: the operator and its version
are known, the operands are there, shapes fit, padding is resolved into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import Window, check_shape
from mnv3c.frontend.tflite.reader import Model, OperatorInfo, TensorInfo
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import Shape

INF = float("inf")
# Fused activation (schema's ActivationFunctionType) to the range it clamps to.
_CLAMP = {0: (-INF, INF), 1: (0.0, INF), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
# Activations that are operators of their own, likewise.
CLIPS = {"RELU": (0.0, INF), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_SAME, _VALID = 0, 1
_NO_WINDOW = Window()

# Newest version of each operator that means what this front end does with it.
NEWEST: Mapping[str, int] = {
    "CONV_2D": 8,
    "DEPTHWISE_CONV_2D": 7,
    "FULLY_CONNECTED": 13,
    "ADD": 5,
    "SUB": 5,
    "MUL": 7,
    "AVERAGE_POOL_2D": 3,
    "MEAN": 3,
    "RESHAPE": 1,
    "SQUEEZE": 2,
    "HARD_SWISH": 1,
    "LOGISTIC": 3,
    "RELU": 3,
    "RELU6": 3,
    "RELU_N1_TO_1": 3,
    "QUANTIZE": 4,
    "DEQUANTIZE": 6,
    "SOFTMAX": 3,
}


@dataclass(frozen=True)
class Operator:
    """Base: what all have.

    Attributes:
        place: for errors: file, number and name.
        x: the first operand.
        output: of which there is one.
        low, high: what the fused activation clamps the real result to.
    """

    place: str
    x: TensorInfo
    output: TensorInfo
    low: float = -INF
    high: float = INF


@dataclass(frozen=True)
class Convolution(Operator):
    """Also depthwise and fully connected.

    Attributes:
        weight: a constant; ``weights`` turns it round to ``[out, kernel_h, kernel_w, in / groups]``.
        bias: a constant ``[out]``, or ``None``.
    """

    weight: TensorInfo | None = None
    bias: TensorInfo | None = None
    window: Window = _NO_WINDOW
    groups: int = 1
    channel_axis: int = 0

    def weights(self) -> np.ndarray:
        """The file's values as ``[out, kernel_h, kernel_w, in / groups]``."""
        assert self.weight is not None and self.weight.data is not None
        data = self.weight.data
        if data.ndim == 2:
            return data[:, None, None, :]
        return data.transpose(3, 1, 2, 0) if self.channel_axis == 3 else data


@dataclass(frozen=True)
class Binary(Operator):
    """``x`` and ``y``, broadcast; ``kind`` is ``ADD``, ``SUB`` or ``MUL``."""

    kind: str = "ADD"
    y: TensorInfo | None = None


@dataclass(frozen=True)
class Unary(Operator):
    """Element-wise: ``HARD_SWISH``, ``LOGISTIC``, ``RELU``, ``RELU6``, ``RELU_N1_TO_1``."""

    kind: str = "RELU"


@dataclass(frozen=True)
class AveragePool(Operator):
    kernel: tuple[int, int] = (1, 1)
    window: Window = _NO_WINDOW


@dataclass(frozen=True)
class Mean(Operator):
    """Over height and width."""


@dataclass(frozen=True)
class Alias(Operator):
    """``RESHAPE`` and ``SQUEEZE``: the same values in the same order."""


@dataclass(frozen=True)
class Convert(Operator):
    """``QUANTIZE`` and ``DEQUANTIZE``."""


@dataclass(frozen=True)
class Softmax(Operator):
    """Over the last axis."""


def shape_of(t: TensorInfo, path: str) -> Shape:
    """``(H, W, C)`` of a batch of one: from rank 4 as it is, from rank 2 and 1 as a vector.

    Rank 3 is a map of class numbers, ``(H, W, 1)``.
    """
    where = f"{path}: {t.place}"
    if len(t.shape) == 3 and t.shape[0] == 1 and t.dtype in ("int32", "int64"):
        check_shape((t.shape[1], t.shape[2], 1), where)
        return t.shape[1], t.shape[2], 1
    if not t.shape or len(t.shape) == 3 or len(t.shape) > 4 or (len(t.shape) > 1 and t.shape[0] != 1):
        raise Mnv3cError(f"has shape {list(t.shape)}; [1, H, W, C] and [1, C] are supported", where)
    shape = (t.shape[1], t.shape[2], t.shape[3]) if len(t.shape) == 4 else (1, 1, t.shape[-1])
    check_shape(shape, where)
    return shape


def operand_shape(t: TensorInfo, path: str) -> Shape:
    """``(H, W, C)`` of an operand that may broadcast: a constant has up to four axes."""
    if t.data is None:
        return shape_of(t, path)
    dims = (1,) * (4 - len(t.shape)) + tuple(t.shape)
    if len(dims) > 4 or dims[0] != 1:
        raise Mnv3cError(f"has shape {list(t.shape)}; that of one image is supported", f"{path}: {t.place}")
    shape = (dims[1], dims[2], dims[3])
    check_shape(shape, f"{path}: {t.place}")
    return shape


def decode(model: Model, op: OperatorInfo) -> list[Operator]:
    """The typed form of ``op``; a split is one slice for each of its outputs.

    Raises:
        Mnv3cError: names the operator and what is wrong with it or not supported.
    """
    place = f"{model.path}: {op.place}"
    from mnv3c.frontend.tflite import spatial  # which builds on this module

    rules: dict[str, Callable[[Model, OperatorInfo, str], Operator | list[Operator]]]
    rules = {**_RULES, **spatial.RULES}
    rule = rules.get(op.name)
    if rule is None:
        raise Mnv3cError(f"is not supported; supported are {', '.join(sorted(rules))}", place)
    newest = {**NEWEST, **spatial.NEWEST}[op.name]
    if not 1 <= op.version <= newest:
        raise Mnv3cError(f"has version {op.version}; versions 1 to {newest} are known", place)
    if len(op.outputs) != 1 and op.name not in spatial.SEVERAL_OUTPUTS:
        raise Mnv3cError(f"has {len(op.outputs)} outputs; one is expected", place)
    least = 2 if op.name in (*_TWO_OPERANDS, *spatial.TWO_OPERANDS) else 1
    least = spatial.OPERANDS.get(op.name, least)
    if len(op.inputs) < least or any(i < 0 for i in op.inputs[:least]):
        raise Mnv3cError("lacks an operand", place)
    if model.tensors[op.inputs[0]].dtype == "string":
        raise Mnv3cError("works on strings", place)
    found = rule(model, op, place)
    return found if isinstance(found, list) else [found]


_TWO_OPERANDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "MEAN")


def options_of(op: OperatorInfo, place: str) -> Mapping[str, int]:
    """Options by name; raises ``Mnv3cError`` where the file has none."""
    if op.options is None:
        raise Mnv3cError("lacks its options", place)
    return op.options


def clamp(options: Mapping[str, int], place: str) -> tuple[float, float]:
    """Range of the fused activation."""
    kind = options["FusedActivationFunction"]
    if kind not in _CLAMP:
        raise Mnv3cError(
            f"has fused activation {kind}; none, RELU, RELU_N1_TO_1 and RELU6 are supported", place
        )
    return _CLAMP[kind]


def _pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """SAME padding before and after: the odd one goes after."""
    extent = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _window(
    options: Mapping[str, int], shape: Shape, kernel: tuple[int, int], dilation: tuple[int, int], place: str
) -> Window:
    stride = (options["StrideH"], options["StrideW"])
    if min(*stride, *dilation, *kernel) < 1:
        raise Mnv3cError(f"has stride {stride}, dilation {dilation}, kernel {kernel}", place)
    if options["Padding"] == _VALID:
        return Window(stride, (0, 0, 0, 0), dilation)
    if options["Padding"] != _SAME:
        raise Mnv3cError(f"has padding {options['Padding']}; SAME and VALID are known", place)
    top, bottom = _pads(shape[0], kernel[0], stride[0], dilation[0])
    left, right = _pads(shape[1], kernel[1], stride[1], dilation[1])
    return Window(stride, (top, left, bottom, right), dilation)


def base(model: Model, op: OperatorInfo) -> tuple[TensorInfo, TensorInfo]:
    """First operand and output."""
    return model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]


def expect(model: Model, output: TensorInfo, shape: Shape, place: str) -> None:
    """Raise ``Mnv3cError`` unless the file says that shape of the output."""
    declared = shape_of(output, model.path)
    if declared != shape:
        raise Mnv3cError(f"computes {shape}, but its output {output.name} says {declared}", place)


def constant(t: TensorInfo, what: str, place: str) -> np.ndarray:
    """Values of a constant; raises ``Mnv3cError`` for anything else."""
    if t.data is None:
        raise Mnv3cError(f"its {what} {t.name} is not a constant", place)
    return t.data


def _convolution(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    weight = model.tensors[op.inputs[1]]
    bias = model.tensors[op.inputs[2]] if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    options = options_of(op, place)
    shape = shape_of(x, model.path)
    data = constant(weight, "weight", place)
    low, high = clamp(options, place)
    if op.name == "FULLY_CONNECTED":
        if data.ndim != 2 or shape != (1, 1, data.shape[1]):
            raise Mnv3cError(f"weights {list(weight.shape)} do not fit the vector {list(x.shape)}", place)
        if options["WeightsFormat"] != 0:
            raise Mnv3cError("has shuffled weights, which are not supported", place)
        window, groups, axis, out, kernel = Window(), 1, 0, data.shape[0], (1, 1)
    else:
        if data.ndim != 4 or min(data.shape) < 1:
            raise Mnv3cError(f"has weights of shape {list(weight.shape)}", place)
        kernel = (data.shape[1], data.shape[2])
        dilation = (options["DilationHFactor"], options["DilationWFactor"])
        window = _window(options, shape, kernel, dilation, place)
        if op.name == "DEPTHWISE_CONV_2D":
            groups, axis, out = shape[2], 3, data.shape[3]
            if data.shape[0] != 1 or out != groups:
                raise Mnv3cError(
                    f"weights {list(weight.shape)} on {groups} channels: a depth multiplier is not supported",
                    place,
                )
        else:
            axis, out = 0, data.shape[0]
            if shape[2] % data.shape[3]:
                raise Mnv3cError(f"weights {list(weight.shape)} do not fit {shape[2]} channels", place)
            groups = shape[2] // data.shape[3]
            if out % groups or groups not in (1, shape[2]):
                raise Mnv3cError(f"has {groups} groups", place)
    if bias is not None and constant(bias, "bias", place).shape != (out,):
        raise Mnv3cError(f"has a bias of shape {list(bias.shape)} for {out} channels", place)
    size = window.output(shape[:2], kernel)
    if min(size) < 1:
        raise Mnv3cError("its window is larger than its input", place)
    expect(model, output, (*size, out), place)
    return Convolution(place, x, output, low, high, weight, bias, window, groups, axis)


def _binary(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    y = model.tensors[op.inputs[1]]
    # A constant first, or the smaller operand first, is turned round; subtraction can not be.
    smaller = y.data is None and np.prod(x.shape) < np.prod(y.shape)
    if op.name != "SUB" and (x.data is not None or smaller):
        x, y = y, x
    if x.data is not None:
        raise Mnv3cError("has no operand that is not a constant", place)
    low, high = clamp(options_of(op, place), place)
    shape = broadcast(shape_of(x, model.path), operand_shape(y, model.path))
    if shape is None:
        raise Mnv3cError(f"has operands of shapes {list(x.shape)} and {list(y.shape)}", place)
    expect(model, output, shape, place)
    return Binary(place, x, output, low, high, op.name, y)


def _unary(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    expect(model, output, shape_of(x, model.path), place)
    return Unary(place, x, output, kind=op.name)


def average_pool(model: Model, op: OperatorInfo, place: str) -> AveragePool:
    """The window, padding resolved; also of a max pool."""
    x, output = base(model, op)
    options = options_of(op, place)
    kernel = (options["FilterHeight"], options["FilterWidth"])
    shape = shape_of(x, model.path)
    window = _window(options, shape, kernel, (1, 1), place)
    size = window.output(shape[:2], kernel)
    if min(size) < 1:
        raise Mnv3cError("its window is larger than its input", place)
    expect(model, output, (*size, shape[2]), place)
    return AveragePool(place, x, output, *clamp(options, place), kernel, window)


def _mean(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    axes = constant(model.tensors[op.inputs[1]], "list of axes", place)
    if len(x.shape) != 4 or sorted(int(a) % 4 for a in axes.ravel()) != [1, 2]:
        raise Mnv3cError(f"over axes {axes.ravel().tolist()[:4]}; over height and width is supported", place)
    expect(model, output, (1, 1, shape_of(x, model.path)[2]), place)
    return Mean(place, x, output)


def _alias(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    before, after = shape_of(x, model.path), shape_of(output, model.path)
    if before != after:
        raise Mnv3cError(
            f"from {list(x.shape)} to {list(output.shape)} moves values, which is not supported", place
        )
    return Alias(place, x, output)


def _convert(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    expect(model, output, shape_of(x, model.path), place)
    return Convert(place, x, output)


def _softmax(model: Model, op: OperatorInfo, place: str) -> Operator:
    x, output = base(model, op)
    expect(model, output, shape_of(x, model.path), place)
    check_beta(op, place)
    return Softmax(place, x, output)


def check_beta(op: OperatorInfo, place: str) -> None:
    """Raise ``Mnv3cError`` unless a softmax is of its operand as it is, not of multiples of it."""
    if op.reals is None:
        raise Mnv3cError("lacks its options", place)
    if op.reals["Beta"] != 1.0:
        raise Mnv3cError(f"has a beta of {op.reals['Beta']:g}; 1 is supported", place)


_RULES: dict[str, Callable[[Model, OperatorInfo, str], Operator]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _convolution,
    "ADD": _binary,
    "SUB": _binary,
    "MUL": _binary,
    "AVERAGE_POOL_2D": average_pool,
    "MEAN": _mean,
    "RESHAPE": _alias,
    "SQUEEZE": _alias,
    "HARD_SWISH": _unary,
    "LOGISTIC": _unary,
    "RELU": _unary,
    "RELU6": _unary,
    "RELU_N1_TO_1": _unary,
    "QUANTIZE": _convert,
    "DEQUANTIZE": _convert,
    "SOFTMAX": _softmax,
}
