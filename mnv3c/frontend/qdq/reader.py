"""ONNX files as plain nodes and arrays, for the QDQ importer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from mnv3c.errors import Mnv3cError

_FLOAT, _UINT8, _INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT8
DTYPES: Mapping[int, str] = {_FLOAT: "float32", _UINT8: "uint8", _INT8: "int8"}
_MAX_RANK = 4


@dataclass(frozen=True)
class NodeInfo:
    """A node: ``inputs`` may hold empty names for optional operands that are not there."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    place: str

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class InputInfo:
    """A graph input: its shape as in the file, its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Model:
    path: str
    nodes: tuple[NodeInfo, ...]
    constants: Mapping[str, np.ndarray]
    inputs: tuple[InputInfo, ...]
    outputs: tuple[str, ...]
    opset: int
    source: str = "onnx"
    format: str = "ONNX, QDQ"


def proto(path: Path | str) -> onnx.ModelProto:
    """The parsed file; raises ``Mnv3cError`` if it cannot be read or is no ONNX file."""
    place = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror or error}", place) from None
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, TypeError, RecursionError) as error:
        raise Mnv3cError(f"is not an ONNX file: {error}", place) from None
    if not model.graph.node:
        raise Mnv3cError("is not an ONNX file, or an empty one", place)
    return model


def read(path: Path | str) -> Model:
    """Read a file; raises ``Mnv3cError`` as ``proto``, and for damaged constants."""
    model = proto(path)
    graph, place = model.graph, str(path)
    constants = {t.name: _array(t, place) for t in graph.initializer}
    nodes = []
    for i, n in enumerate(graph.node):
        where = f"{place}: node {i} ({n.op_type}{' ' + n.name if n.name else ''})"
        if n.domain not in ("", "ai.onnx"):
            raise Mnv3cError(f"is of the domain {n.domain}, which is not supported", where)
        if len(n.output) != 1 and n.op_type != "Dropout":
            raise Mnv3cError(f"has {len(n.output)} outputs; one is supported", where)
        nodes.append(NodeInfo(n.op_type, tuple(n.input), tuple(n.output), _attributes(n, where), where))
    return Model(
        path=place,
        nodes=tuple(nodes),
        constants=constants,
        inputs=tuple(_input(v, place) for v in graph.input if v.name not in constants),
        outputs=tuple(v.name for v in graph.output),
        opset=max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0),
    )


def _attributes(node: onnx.NodeProto, where: str) -> Mapping[str, Any]:
    try:
        result = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return {k: _array(v, where) if isinstance(v, onnx.TensorProto) else v for k, v in result.items()}
    except (ValueError, TypeError) as error:
        raise Mnv3cError(f"has a damaged attribute: {error}", where) from None


def _array(tensor: onnx.TensorProto, place: str) -> np.ndarray:
    where = f"{place}: tensor {tensor.name}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise Mnv3cError("keeps its data in another file, which is not supported", where)
    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > _MAX_RANK + 1:
        raise Mnv3cError(f"has shape {list(tensor.dims)[:8]}", where)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise Mnv3cError(f"is damaged: {error}", where) from None


def _input(value: onnx.ValueInfoProto, place: str) -> InputInfo:
    kind = value.type.tensor_type
    dtype = DTYPES.get(int(kind.elem_type))
    where = f"{place}: input {value.name}"
    if dtype is None:
        raise Mnv3cError(f"has element type {kind.elem_type}; float32, uint8 and int8 are supported", where)
    return InputInfo(value.name, tuple(int(d.dim_value) for d in kind.shape.dim), dtype)
