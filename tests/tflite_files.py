"""Writes small TFLite files for the tests, with the schema classes that LiteRT ships."""

from __future__ import annotations

from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import pytest
from flatbuffers import flexbuffers

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

NONE, RELU, RELU6 = 0, 1, 3
SAME, VALID = 0, 1
_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9}
OPERATORS = schema.BuiltinOperator


@dataclass
class File:
    """A model under construction; ``tensor`` and ``operator`` return and take tensor numbers."""

    tensors: list = field(default_factory=list)
    buffers: list = field(default_factory=lambda: [schema.BufferT()])
    codes: list = field(default_factory=list)
    operators: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)

    def tensor(self, shape, dtype="int8", scale=None, zero_point=None, data=None, axis=0, name=None) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type = name or f"t{len(self.tensors)}", list(shape), _TYPES[dtype]
        t.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scale is not None:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            zero_point = np.zeros(t.quantization.scale.size) if zero_point is None else zero_point
            t.quantization.zeroPoint = np.atleast_1d(np.asarray(zero_point, np.int64))
            t.quantization.quantizedDimension = axis
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(self, name, inputs, output, options=None, version=1, **fields) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(OPERATORS, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.codes.append(code)
        o = schema.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = len(self.codes) - 1, list(inputs), [output]
        if options:
            o.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            o.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in fields.items():
                setattr(o.builtinOptions, key, value)
        self.operators.append(o)
        return output

    def custom(self, name, inputs, outputs, options: dict, version=1) -> None:
        """A custom operator; its options become a flexbuffer."""
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = OPERATORS.CUSTOM
        code.customCode, code.version = name, version
        self.codes.append(code)
        builder = flexbuffers.Builder()
        with builder.Map():
            for key, value in options.items():
                builder.Key(key)
                {bool: builder.Bool, int: builder.Int, float: builder.Float}[type(value)](value)
        o = schema.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = len(self.codes) - 1, list(inputs), list(outputs)
        o.customOptions = list(builder.Finish())
        self.operators.append(o)

    def window(self, stride, padding, activation) -> dict:
        return {
            "strideH": stride,
            "strideW": stride,
            "padding": padding,
            "fusedActivationFunction": activation,
            "dilationHFactor": 1,
            "dilationWFactor": 1,
        }

    def bytes(self) -> bytes:
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.description = 3, "test"
        model.operatorCodes, model.buffers, model.subgraphs = self.codes, self.buffers, [graph]
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = self.inputs, self.outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def small_network(dtype: str = "int8", seed: int = 0, per_channel: bool = True) -> File:
    """Convolution, h-swish, depthwise, SE block, projection, residual add, pool, logits, softmax."""
    rng = np.random.default_rng(seed)
    f = File()
    shift = 128 if dtype == "uint8" else 0

    def value(shape, scale, zero_point):
        return f.tensor(shape, dtype, scale, zero_point + shift)

    def conv(
        x, shape, out, kernel, scale, zero_point, stride=1, activation=NONE, depthwise=False, spread=4.0
    ):
        in_scale = float(f.tensors[x].quantization.scale[0])
        channels = f.tensors[x].shape[3]
        many = per_channel and dtype == "int8"
        weight_shape = (1, kernel, kernel, out) if depthwise else (out, kernel, kernel, channels)
        taps = kernel * kernel * (1 if depthwise else channels)
        scales = (rng.uniform(0.5, 1.5, out if many else 1) * spread / (128 * np.sqrt(taps))).astype(
            np.float32
        )
        low, high = (1, 256) if dtype == "uint8" else (-127, 128)
        zero = int(rng.integers(90, 160)) if dtype == "uint8" else np.zeros(scales.size)
        data = rng.integers(low, high, weight_shape)
        weight = f.tensor(weight_shape, dtype, scales, zero, data, axis=3 if depthwise else 0)
        bias = f.tensor((out,), "int32", in_scale * scales, None, rng.integers(-2000, 2000, out))
        result = value(shape, scale, zero_point)
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        options = f.window(stride, SAME, activation)
        if depthwise:
            options["depthMultiplier"] = 1
        name = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        return f.operator(kind, (x, weight, bias), result, name, 3 if dtype == "int8" else 1, **options)

    x = value((1, 14, 14, 3), 0.0078, 0)
    f.inputs = [x]
    a = conv(x, (1, 7, 7, 8), 8, 3, 0.05, -20, stride=2)
    swish = f.operator("HARD_SWISH", (a,), value((1, 7, 7, 8), 0.03, -115))
    d = conv(swish, (1, 7, 7, 8), 8, 5, 0.04, -128, activation=RELU, depthwise=True)
    axes = f.tensor((2,), "int32", data=[1, 2])
    pooled = f.operator("MEAN", (d, axes), value((1, 1, 1, 8), 0.03, -128), "ReducerOptions", keepDims=True)
    squeeze = conv(pooled, (1, 1, 1, 4), 4, 1, 0.02, -128, activation=RELU)
    excite = conv(squeeze, (1, 1, 1, 8), 8, 1, 0.03, -30)
    three = f.tensor((), dtype, 3 / 127, shift, 127 + shift)
    shifted = f.operator(
        "ADD",
        (excite, three),
        value((1, 1, 1, 8), 6 / 255, -128),
        "AddOptions",
        fusedActivationFunction=RELU6,
    )
    sixth = f.tensor((), dtype, 1 / (6 * 127), shift, 127 + shift)
    gate = f.operator(
        "MUL",
        (shifted, sixth),
        value((1, 1, 1, 8), 1 / 255, -128),
        "MulOptions",
        fusedActivationFunction=NONE,
    )
    gated = f.operator(
        "MUL", (d, gate), value((1, 7, 7, 8), 0.03, -128), "MulOptions", fusedActivationFunction=NONE
    )
    p = conv(gated, (1, 7, 7, 8), 8, 1, 0.05, 10)
    total = f.operator(
        "ADD", (p, swish), value((1, 7, 7, 8), 0.06, 0), "AddOptions", fusedActivationFunction=NONE
    )
    options = {"filterHeight": 7, "filterWidth": 7, **f.window(1, VALID, NONE)}
    del options["dilationHFactor"], options["dilationWFactor"]
    mean = f.operator("AVERAGE_POOL_2D", (total,), value((1, 1, 1, 8), 0.06, 0), "Pool2DOptions", **options)
    logits = conv(mean, (1, 1, 1, 10), 10, 1, 0.04, 5)
    shape = f.tensor((2,), "int32", data=[1, 10])
    flat = f.operator("RESHAPE", (logits, shape), value((1, 10), 0.04, 5), "ReshapeOptions", newShape=[1, 10])
    f.outputs = [f.operator("SOFTMAX", (flat,), value((1, 10), 1 / 256, -128), "SoftmaxOptions", beta=1.0)]
    return f
