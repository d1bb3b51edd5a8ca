"""Float TFLite models to the float graph.

TFLite's converter has already folded batch norm and kept one operator for every activation, and its
layout is ours; so there is nothing here for the passes over Relax to canonicalise, and the operators map
one to one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import identifier
from mnv3c.frontend.tflite import operators as ops
from mnv3c.frontend.tflite import spatial
from mnv3c.frontend.tflite.detection import split
from mnv3c.frontend.tflite.half import widened
from mnv3c.frontend.tflite.reader import Model, TensorInfo, read
from mnv3c.ir import float_ops as f
from mnv3c.ir.broadcast import broadcast, shortest
from mnv3c.ir.count import count_classes
from mnv3c.ir.detection import with_detection, with_softmax
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.ir.verify import InvalidGraph, verify


def load_float(path: Path | str, name: str | None = None) -> Graph:
    """The float graph of a float file.

    ``meta`` is as that of ``mnv3c.frontend.load``. Activations fused into an operator become nodes.

    Args:
        name: of the graph, a C identifier; made from the file's name by default.

    Raises:
        Mnv3cError: the file is damaged, quantised, or holds an operator that is not supported.
    """
    model, detection = split(widened(read(path)))
    soft = detection is not None and all("SOFTMAX" in m.names for m in detection.scores)
    if detection is not None and not detection.settings.logits and not soft:
        raise Mnv3cError("needs scores of a LOGISTIC or a SOFTMAX in a float model", detection.place)
    importer = _Importer(model)
    for t in (model.tensors[i] for i in model.inputs):
        importer.require_float(t)
        importer.add(t.name, ops.shape_of(t, model.path))
        importer.values[t.index] = t.name
    for info in model.operators:
        for op in ops.decode(model, info):
            importer.operator(op)
    meta: dict[str, object] = {
        "source": "tflite",
        "random_weights": False,
        "input_layout": "NHWC",
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    }
    graph = importer.finish(name or identifier(re.sub(r"[^A-Za-z0-9]+", "_", PurePath(path).stem)), meta)
    if detection is None:
        return graph
    if soft:
        graph = with_softmax(graph, graph.outputs[len(detection.boxes) :], detection.classes)
    return with_detection(graph, detection.anchors, detection.settings)


class _Importer:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[int, str] = {}  # by the file's number
        self.rules: dict[type, Callable[..., str]] = {
            ops.Convolution: self.convolution,
            ops.Binary: self.binary,
            ops.Unary: self.unary,
            ops.AveragePool: self.average_pool,
            ops.Mean: self.mean,
            ops.Alias: lambda op: self.value(op.x, op.place),
            ops.Softmax: self.softmax,
            spatial.Resize: self.resize,
            spatial.ArgMax: lambda op: self.emit(f.ArgMax, (self.value(op.x, op.place),), op.output),
            spatial.Concat: self.concat,
            spatial.Pad: self.pad,
            spatial.Slice: self.slice,
            spatial.TransposedConvolution: self.transposed,
            spatial.MaxPool: self.max_pool,
        }

    def require_float(self, t: TensorInfo) -> None:
        if t.dtype != "float32":
            raise Mnv3cError(f"is {t.dtype} in a float model", f"{self.model.path}: {t.place}")

    def add(self, name: str, shape: tuple[int, int, int]) -> str:
        free, i = name, 2
        while free in self.tensors:
            free, i = f"{name}_{i}", i + 1
        self.tensors[free] = Tensor(free, shape)
        return free

    def emit(self, node: type[Node], inputs: tuple[str, ...], t: TensorInfo, **fields: object) -> str:
        name = self.add(t.name, ops.shape_of(t, self.model.path))
        make: Callable[..., Node] = node
        self.nodes.append(make(f"{node.__name__.lower()}_{name}", inputs, (name,), **fields))
        return name

    def value(self, t: TensorInfo, place: str) -> str:
        if t.index not in self.values:
            raise Mnv3cError(f"reads {t.name}, which is not computed before it", place)
        return self.values[t.index]

    def constant(self, t: TensorInfo, place: str) -> np.ndarray:
        if t.data is None or t.dtype != "float32":
            raise Mnv3cError(f"has a constant {t.name} of {t.dtype}; float32 is supported", place)
        return t.data

    def operator(self, op: ops.Operator) -> None:
        if op.output.index in self.values or op.output.data is not None:
            raise Mnv3cError(f"writes {op.output.name}, which is already there", op.place)
        if type(op) not in self.rules:
            raise Mnv3cError("is not supported in a float model", op.place)
        if not isinstance(op, spatial.ArgMax):
            self.require_float(op.output)
        name = self.rules[type(op)](op)
        if np.isfinite(op.low) or np.isfinite(op.high):
            name = self.emit(f.Activation, (name,), op.output, kind="clip", low=op.low, high=op.high)
        self.values[op.output.index] = name

    def parameters(self, op: ops.Convolution) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``[out, kernel_h, kernel_w, in / groups]`` and bias."""
        assert op.weight is not None
        self.constant(op.weight, op.place)
        weight = np.ascontiguousarray(op.weights(), np.float32)
        if op.bias is None:
            return weight, np.zeros(weight.shape[0], np.float32)
        return weight, np.asarray(self.constant(op.bias, op.place), np.float32)

    def convolution(self, op: ops.Convolution) -> str:
        weight, bias = self.parameters(op)
        w = op.window
        return self.emit(
            f.Conv2d,
            (self.value(op.x, op.place),),
            op.output,
            weight=weight,
            bias=bias,
            stride=w.stride,
            pad=w.pad,
            dilation=w.dilation,
            groups=op.groups,
        )

    def binary(self, op: ops.Binary) -> str:
        assert op.y is not None
        x = self.value(op.x, op.place)
        if op.y.data is None and op.kind in ("ADD", "MUL"):
            kind: type[Node] = f.Add if op.kind == "ADD" else f.Multiply
            return self.emit(kind, (x, self.value(op.y, op.place)), op.output)
        if op.y.data is None:
            raise Mnv3cError("subtracts two tensors; of a constant alone is supported", op.place)
        shape = ops.shape_of(op.x, self.model.path)
        constant = self.constant(op.y, op.place).reshape(ops.operand_shape(op.y, self.model.path))
        constant = shortest(constant.astype(np.float32), shape)
        channels = shape[2]
        if broadcast(shape, constant.shape) != shape or constant.shape[:2] != (1, 1):
            return self.with_map(op, x, -constant if op.kind == "SUB" else constant)
        # A constant one a channel (or one for all) is a 1x1 depthwise convolution.
        constant = np.broadcast_to(constant.ravel(), (channels,))
        one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        weight, bias = (
            (constant, zero) if op.kind == "MUL" else (one, constant if op.kind == "ADD" else -constant)
        )
        taps = np.ascontiguousarray(weight).reshape(channels, 1, 1, 1)
        return self.emit(f.Conv2d, (x,), op.output, weight=taps, bias=np.array(bias), groups=channels)

    def with_map(self, op: ops.Binary, x: str, values: np.ndarray) -> str:
        """A sum or product with a constant that differs from pixel to pixel."""
        assert op.y is not None
        name = self.add(op.y.name, values.shape)
        self.nodes.append(f.Constant(f"constant_{name}", (), (name,), values))
        return self.emit(f.Multiply if op.kind == "MUL" else f.Add, (x, name), op.output)

    def unary(self, op: ops.Unary) -> str:
        x = self.value(op.x, op.place)
        if op.kind == "HARD_SWISH":
            return self.emit(f.Activation, (x,), op.output, kind="hard_swish")
        if op.kind == "LOGISTIC":
            return self.emit(f.Activation, (x,), op.output, kind="sigmoid")
        low, high = ops.CLIPS[op.kind]
        return self.emit(f.Activation, (x,), op.output, kind="clip", low=low, high=high)

    def average_pool(self, op: ops.AveragePool) -> str:
        x = self.value(op.x, op.place)
        if op.kernel == ops.shape_of(op.x, self.model.path)[:2] and not any(op.window.pad):
            return self.emit(f.GlobalAveragePool, (x,), op.output)
        w = op.window
        return self.emit(
            f.Pool, (x,), op.output, kind="average", kernel=op.kernel, stride=w.stride, pad=w.pad
        )

    def max_pool(self, op: spatial.MaxPool) -> str:
        w = op.window
        x = self.value(op.x, op.place)
        return self.emit(f.Pool, (x,), op.output, kind="max", kernel=op.kernel, stride=w.stride, pad=w.pad)

    def resize(self, op: spatial.Resize) -> str:
        x = self.value(op.x, op.place)
        if op.x.shape == op.output.shape:
            return x
        return self.emit(
            f.Resize, (x,), op.output, kind=op.kind, coordinates=op.coordinates, rounding=op.rounding
        )

    def concat(self, op: spatial.Concat) -> str:
        parts = tuple(self.value(t, op.place) for t in op.parts)
        return self.emit(f.Concat, parts, op.output, axis=op.axis)

    def pad(self, op: spatial.Pad) -> str:
        return self.emit(f.Spread, (self.value(op.x, op.place),), op.output, pad=op.pad)

    def slice(self, op: spatial.Slice) -> str:
        return self.emit(f.Slice, (self.value(op.x, op.place),), op.output, begin=op.begin)

    def transposed(self, op: spatial.TransposedConvolution) -> str:
        weight, bias = self.parameters(op)
        x, w = self.value(op.x, op.place), op.window
        return self.emit(
            f.TransposedConv2d, (x,), op.output, weight=weight, bias=bias, stride=w.stride, pad=w.pad
        )

    def mean(self, op: ops.Mean) -> str:
        return self.emit(f.GlobalAveragePool, (self.value(op.x, op.place),), op.output)

    def softmax(self, op: ops.Softmax) -> str:
        return self.emit(f.Softmax, (self.value(op.x, op.place),), op.output)

    def finish(self, name: str, meta: dict[str, object]) -> Graph:
        outputs = []
        for t in (self.model.tensors[i] for i in self.model.outputs):
            outputs.append(self.value(t, f"{self.model.path}: {t.place}"))
        inputs = tuple(self.model.tensors[i].name for i in self.model.inputs)
        if not outputs or not inputs:
            raise Mnv3cError("has no input or no output", self.model.path)
        try:
            graph = verify(Graph(name, tuple(self.nodes), self.tensors, inputs, tuple(outputs), meta))
            return graph.replace(meta={**meta, "classes": count_classes(graph)})
        except InvalidGraph as error:
            raise Mnv3cError(f"does not make a well-formed graph: {error}", self.model.path) from None
