"""Reading an ONNX file and its tensors, trusting nothing in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from mnv3c.errors import Mnv3cError

MAX_FILE_BYTES = 2**31 - 1
MAX_ELEMENTS = 2**27
MAX_NODES = 4_000
MIN_OPSET, MAX_OPSET = 7, 24
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_INTEGERS = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Parse a file.

    Returns:
        The model and the SHA-256 of the file in hex.

    Raises:
        Mnv3cError: no file, no ONNX model, or a model of a kind that is not supported.
    """
    place = str(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise Mnv3cError(f"the file has {size} bytes; ONNX files have less than 2 GiB", place)
        data = path.read_bytes()
    except OSError as error:
        raise Mnv3cError(f"cannot read the file: {error.strerror or error}", place) from None
    if not data:
        raise Mnv3cError("the file is empty", place)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        # protobuf's DecodeError says no more than that, and its class differs between backends.
        raise Mnv3cError("not an ONNX model, or truncated or corrupted", place) from None
    if not model.HasField("graph") or not model.graph.node or model.ir_version < 1:
        raise Mnv3cError("not an ONNX model (it holds no graph)", place)
    check_text(model.graph, place)
    check_kind(model, place)
    return model, hashlib.sha256(data).hexdigest()


def check_text(graph: onnx.GraphProto, place: str) -> None:
    """Refuse names that are not UTF-8: protobuf hands those out as bytes, unlike all others."""
    names = [v.name for v in (*graph.input, *graph.output, *graph.initializer)]
    names += [d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [a.name for a in node.attribute]
    if not all(isinstance(name, str) for name in names):
        raise Mnv3cError("a name in it is not text in UTF-8; the file is corrupted", place)


def check_kind(model: onnx.ModelProto, place: str) -> None:
    """Refuse what is no plain float model of a known operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise Mnv3cError("the model names no operator set of domain ai.onnx", place)
    if not MIN_OPSET <= versions[0] <= MAX_OPSET:
        raise Mnv3cError(f"opset {versions[0]} is not supported ({MIN_OPSET} to {MAX_OPSET} are)", place)
    if len(model.graph.node) > MAX_NODES:
        raise Mnv3cError(f"{len(model.graph.node)} nodes; at most {MAX_NODES} are supported", place)
    if model.graph.sparse_initializer:
        raise Mnv3cError("sparse weights are not supported", place)
    for node in model.graph.node:
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            raise Mnv3cError(
                f"a quantised model (operator {node.op_type}) has no float graph",
                f"{place}: {describe(node)}",
            )


def opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def describe(node: onnx.NodeProto) -> str:
    """How messages name a node: its name, or its output where it has none."""
    label = node.name or (node.output[0] if node.output else "")
    return f"node {printable(label)!r} ({printable(node.op_type)})"


def printable(text: str) -> str:
    """A name from the file, fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def tensor(proto: TensorProto, place: str) -> np.ndarray:
    """Value of a tensor: float32, int64 or bool.

    Raises:
        Mnv3cError: external data, another type, or data that does not fill the shape.
    """
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise Mnv3cError("weights in a separate file are not supported; save the model as one file", place)
    if proto.data_type not in (*_FLOATS, *_INTEGERS):
        raise Mnv3cError(f"tensor type {type_name(proto.data_type)} is not supported", place)
    dims = tuple(int(d) for d in proto.dims)
    count = math.prod(dims)
    if any(d < 0 for d in dims) or count > MAX_ELEMENTS:
        raise Mnv3cError(f"tensor of shape {list(dims)} is not possible", place)
    try:
        value = np.asarray(onnx.numpy_helper.to_array(proto))
    except Exception:
        raise Mnv3cError(f"data does not fill the shape {list(dims)}", place) from None
    if value.shape != dims:
        raise Mnv3cError(f"data does not fill the shape {list(dims)}", place)
    if proto.data_type not in _FLOATS:
        return value if value.dtype == np.bool_ else value.astype(np.int64)
    with np.errstate(over="ignore"):
        return value.astype(np.float32)


def type_name(data_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(data_type))
    except ValueError:
        return str(data_type)


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every initialiser by name; all must be finite."""
    values: dict[str, np.ndarray] = {}
    for proto in model.graph.initializer:
        place = f"initialiser {printable(proto.name)!r}"
        if not proto.name or proto.name in values:
            raise Mnv3cError("without a name, or twice in the model", place)
        values[proto.name] = tensor(proto, place)
    return values


def model_input(
    model: onnx.ModelProto, given: tuple[int, ...] | None, constants: Mapping[str, np.ndarray]
) -> tuple[str, tuple[int, ...]]:
    """Name and static shape of the one input.

    A dynamic batch becomes 1; other dynamic dimensions come from ``given``, which may leave out the batch.

    Raises:
        Mnv3cError: not exactly one input, no float, a dynamic dimension, or a shape that does not fit.
    """
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(printable(i.name)) for i in inputs) or "none"
        raise Mnv3cError(f"one input is supported, the model has {len(inputs)} ({names})", "model inputs")
    value = inputs[0]
    place = f"input {printable(value.name)!r}"
    if not value.name:
        raise Mnv3cError("the input has no name", "model inputs")
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type not in _FLOATS:
        raise Mnv3cError(f"must be a float tensor, is {type_name(kind.elem_type)}", place)
    if not kind.HasField("shape"):
        raise Mnv3cError("has no shape", place)
    dims = [_dimension(d) for d in kind.shape.dim]
    if given is not None and len(given) == len(dims) - 1:
        given = (1, *given)
    if given is not None and len(given) != len(dims):
        raise Mnv3cError(f"has {len(dims)} dimensions, the shape given is {list(given)}", place)
    shape = []
    for i, dim in enumerate(dims):
        wanted = given[i] if given is not None else None
        if isinstance(dim, int) and wanted is not None and dim != wanted:
            raise Mnv3cError(f"dimension {i} is {dim}, the shape given says {wanted}", place)
        if isinstance(dim, str) and wanted is None and i > 0:
            raise Mnv3cError(f"dimension {i} ({dim}) is dynamic; give the input shape", place)
        size = dim if isinstance(dim, int) else (wanted if wanted is not None else 1)
        if size < 1:
            raise Mnv3cError(f"dimension {i} is {size}", place)
        shape.append(size)
    if shape and shape[0] != 1:
        raise Mnv3cError(f"a batch of {shape[0]} is not supported, only of 1", place)
    if math.prod(shape) > MAX_ELEMENTS:
        raise Mnv3cError(f"shape {shape} is too large", place)
    return value.name, tuple(shape)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """The size, or the name of a dynamic dimension (Paddle writes -1)."""
    if dim.HasField("dim_value") and dim.dim_value >= 1:
        return int(dim.dim_value)
    return printable(dim.dim_param) or "unnamed"
