"""The state of the rewrite: what is known about each value, and the canonical nodes so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.onnx_model.read import MAX_ELEMENTS, describe, tensor

Shape = tuple[int, ...]
Pads = tuple[int, int, int, int]
OUTPUT_OPSET = 17


@dataclass(frozen=True)
class Value:
    """A computed float tensor.

    Attributes:
        name: in the canonical graph.
        shape: static.
        pads: zeros around height and width that a Pad node asked for and no convolution has taken yet:
            (top, left, bottom, right), included in ``shape``.
    """

    name: str
    shape: Shape
    pads: Pads = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Constant:
    """A known array: float32, int64 or bool."""

    array: np.ndarray

    @property
    def shape(self) -> Shape:
        return tuple(self.array.shape)


Known = Value | Constant
T = TypeVar("T")


class Node:
    """A node of the file with checked access to its attributes and inputs."""

    def __init__(self, proto: onnx.NodeProto, inputs: Sequence[Known | None], opset: int) -> None:
        self.proto, self.inputs, self.opset = proto, list(inputs), opset
        self.op = str(proto.op_type)
        self.place = describe(proto)
        self._attributes = {a.name: a for a in proto.attribute}

    def error(self, message: str) -> Mnv3cError:
        return Mnv3cError(message, self.place)

    def input(self, index: int) -> Known:
        known = self.optional(index)
        if known is None:
            raise self.error(f"input {index} is missing")
        return known

    def optional(self, index: int) -> Known | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int = 0) -> Value:
        """A computed input."""
        known = self.input(index)
        if not isinstance(known, Value):
            raise self.error(f"input {index} must be computed from the model's input, not constant")
        return known

    def array(self, index: int) -> np.ndarray:
        """A constant input."""
        known = self.input(index)
        if not isinstance(known, Constant):
            raise self.error(f"input {index} must be constant")
        return known.array

    def numbers(self, index: int) -> np.ndarray:
        """A constant float input, finite."""
        values = self.array(index)
        if values.dtype != np.float32 or not bool(np.isfinite(values).all()):
            raise self.error(f"input {index} must be finite float numbers")
        return values

    def integers_of(self, index: int) -> list[int]:
        """A constant vector of integers."""
        values = self.array(index)
        if values.dtype != np.int64 or values.ndim > 1 or values.size > 64:
            raise self.error(f"input {index} must be a short vector of integers")
        return [int(v) for v in values.reshape(-1)]

    def has(self, name: str) -> bool:
        return name in self._attributes

    def integer(self, name: str, default: int) -> int:
        return self._get(name, onnx.AttributeProto.INT, lambda a: int(a.i), default)

    def real(self, name: str, default: float) -> float:
        value = self._get(name, onnx.AttributeProto.FLOAT, lambda a: float(a.f), default)
        if not math.isfinite(value):
            raise self.error(f"attribute {name} is {value}")
        return value

    def text(self, name: str, default: str) -> str:
        return self._get(
            name, onnx.AttributeProto.STRING, lambda a: bytes(a.s).decode("utf-8", "replace"), default
        )

    def integers(self, name: str, default: list[int]) -> list[int]:
        return self._get(name, onnx.AttributeProto.INTS, lambda a: [int(i) for i in a.ints], default)

    def pair(self, name: str, *, low: int, high: int = 2**15) -> tuple[int, int]:
        """Two integers, (1, 1) by default."""
        values = self.integers(name, [1, 1])
        if len(values) != 2 or not all(low <= v <= high for v in values):
            raise self.error(f"attribute {name} is {values}")
        return values[0], values[1]

    def array_attribute(self, name: str) -> np.ndarray:
        return self._get(
            name, onnx.AttributeProto.TENSOR, lambda a: tensor(a.t, self.place), np.zeros(0, np.float32)
        )

    def reals(self, name: str) -> list[float]:
        return self._get(name, onnx.AttributeProto.FLOATS, lambda a: [float(v) for v in a.floats], [])

    def _get(self, name: str, kind: int, read: Any, default: T) -> T:
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        if attribute.type != kind:
            raise self.error(f"attribute {name} is of a wrong type")
        result: T = read(attribute)
        return result

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis, checked."""
        if not -rank <= value < rank:
            raise self.error(f"axis {value} of a tensor with {rank} dimensions")
        return value % rank


@dataclass
class Output:
    """The canonical graph under construction, with the shape of every node's output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    counter: int = 0

    def fresh(self) -> str:
        self.counter += 1
        return f"v{self.counter}"

    def constant(self, values: np.ndarray) -> str:
        name = self.fresh()
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def emit(
        self, source: Node, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any
    ) -> Value:
        """Append a canonical node; ``shape`` is that of its output."""
        dims = tuple(int(d) for d in shape)
        if any(d < 1 for d in dims):
            raise source.error(f"output of shape {list(dims)}")
        if math.prod(dims) > MAX_ELEMENTS:
            raise source.error(f"output of shape {list(dims)} is too large")
        name = self.fresh()
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=source.place, **attributes))
        self.shapes[name] = dims
        return Value(name, dims)

    def model(self, name: str, shape: Shape, results: Sequence[Value], nodes: int | None = None) -> Any:
        """A model proto of the first ``nodes`` nodes (all by default)."""
        graph = helper.make_graph(
            self.nodes[:nodes],
            "canonical",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape) for v in results],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OUTPUT_OPSET)], ir_version=8)
