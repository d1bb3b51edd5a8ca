"""Reads a TFLite flatbuffer into plain dataclasses, and checks everything that one can without context.

The generated accessors of the ``tflite`` package follow the file's offsets wherever they lead and do
not check them. So all of the file is read here, once, with every length compared with the file's size
before it is walked, and whatever goes wrong is one error that says so; what comes out is safe to index.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tflite

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import LARGEST_SCALE, SMALLEST_SCALE

N = TypeVar("N", int, float)

IDENTIFIER = b"TFL3"
_MAX_FILE = 1 << 31
_MAX_RANK = 6

_TYPES = {
    getattr(tflite.TensorType, name): name.lower()
    for name in dir(tflite.TensorType)
    if not name.startswith("_")
}
_ITEM = {"float32": 4, "int32": 4, "uint8": 1, "int64": 8, "int16": 2, "int8": 1, "bool": 1, "float16": 2}


@dataclass(frozen=True, eq=False)
class TensorInfo:
    """A tensor of the file.

    Attributes:
        index: its number in the file.
        shape: as in the file, batch included.
        dtype: ``float32``, ``uint8``, ``int8``, ``int32``, ...
        data: the constant's values in ``shape``, or ``None`` for an activation.
        scale, zero_point: empty without quantisation; several values for one an ``axis`` entry.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int

    @property
    def place(self) -> str:
        return f"tensor {self.index} ({self.name})"


@dataclass(frozen=True)
class OperatorInfo:
    """An operator of the file.

    Attributes:
        name: of the builtin operator, as ``CONV_2D``; a custom one is ``CUSTOM <name>``.
        inputs, outputs: indices of tensors; -1 for an optional input that is not there.
        options: field name to value, for the operators that ``_OPTIONS`` lists; ``None`` if the file
            has no options of the right kind for it.
        custom: the bytes that a custom operator keeps its options in.
        reals: as ``options``, for those of ``_REALS``.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int] | None
    custom: bytes = b""
    reals: Mapping[str, float] | None = None

    @property
    def place(self) -> str:
        return f"operator {self.index} ({self.name})"


@dataclass(frozen=True)
class Model:
    """The only subgraph of a file."""

    path: str
    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str


# Operator to the class of its options and the fields that matter here.
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        (
            "Padding",
            "StrideH",
            "StrideW",
            "DilationHFactor",
            "DilationWFactor",
            "FusedActivationFunction",
            "DepthMultiplier",
        ),
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "SUB": ("SubOptions", ("FusedActivationFunction",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "MAX_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", ("AlignCorners", "HalfPixelCenters")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask"),
    ),
    "SPLIT": ("SplitOptions", ("NumSplits",)),
    "SPLIT_V": ("SplitVOptions", ("NumSplits",)),
    "TRANSPOSE_CONV": (
        "TransposeConvOptions",
        ("Padding", "StrideH", "StrideW", "FusedActivationFunction"),
    ),
}

# Likewise, for fields that are no integers.
_REALS: dict[str, tuple[str, tuple[str, ...]]] = {"SOFTMAX": ("SoftmaxOptions", ("Beta",))}


def read(path: Path | str) -> Model:
    """Read and check a file.

    Raises:
        Mnv3cError: it cannot be read, is no TFLite file, is damaged, or is of a kind that is not
            supported (several subgraphs, sparse or variable tensors).
    """
    place = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror or error}", place) from None
    return parse(data, place)


def parse(data: bytes, place: str) -> Model:
    """As ``read``, from memory; ``place`` names the origin in errors."""
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise Mnv3cError("is not a TFLite file (no TFL3 mark)", place)
    if len(data) > _MAX_FILE:
        raise Mnv3cError("is larger than 2 GiB", place)
    try:
        return _model(data, place)
    except (
        struct.error,
        IndexError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
        AttributeError,
    ) as error:
        raise Mnv3cError(f"is a damaged TFLite file: {error}", place) from None


def _model(data: bytes, place: str) -> Model:
    root = tflite.Model.GetRootAs(data, 0)
    if root.Version() != 3:
        raise Mnv3cError(f"has schema version {root.Version()}; version 3 is supported", place)
    if root.SubgraphsLength() != 1:
        raise Mnv3cError(f"has {root.SubgraphsLength()} subgraphs; one is supported", place)
    graph = root.Subgraphs(0)
    limit = len(data) // 4  # a table takes 4 bytes at least, so no honest vector is longer

    def each(count: int, get: Callable[[int], Any], what: str) -> list[Any]:
        if not 0 <= count <= limit:
            raise ValueError(f"{count} {what}")
        items = [get(i) for i in range(count)]
        if any(i is None for i in items):
            raise ValueError(f"{what} without contents")
        return items

    buffers = each(root.BuffersLength(), root.Buffers, "buffers")
    codes = [_code(c) for c in each(root.OperatorCodesLength(), root.OperatorCodes, "operator codes")]
    seen: dict[str, int] = {}
    tensors = tuple(
        _tensor(i, t, buffers, seen, place)
        for i, t in enumerate(each(graph.TensorsLength(), graph.Tensors, "tensors"))
    )
    operators = tuple(
        _operator(i, o, codes, len(tensors))
        for i, o in enumerate(each(graph.OperatorsLength(), graph.Operators, "operators"))
    )
    description = root.Description() or b""
    return Model(
        path=place,
        tensors=tensors,
        operators=operators,
        inputs=_indices(graph.InputsAsNumpy(), len(tensors), "model inputs"),
        outputs=_indices(graph.OutputsAsNumpy(), len(tensors), "model outputs"),
        description=description.decode("utf-8", "replace")[:200],
    )


def _code(code: Any) -> tuple[str, int]:
    """Name and version."""
    number = code.BuiltinCode()
    if number == tflite.BuiltinOperator.CUSTOM:
        return f"CUSTOM {(code.CustomCode() or b'').decode('utf-8', 'replace')[:60]}", code.Version()
    try:
        return tflite.opcode2name(number), code.Version()
    except ValueError:
        return f"unknown operator code {number}", code.Version()


def _indices(raw: Any, count: int, what: str, least: int = 0) -> tuple[int, ...]:
    values = tuple(int(v) for v in raw) if isinstance(raw, np.ndarray) else ()
    if any(not least <= v < count for v in values):
        raise ValueError(f"{what} name a tensor that is not there")
    return values


def _tensor(index: int, t: Any, buffers: list[Any], seen: dict[str, int], place: str) -> TensorInfo:
    text = (t.Name() or b"").decode("utf-8", "replace")
    name = "".join(c if c.isprintable() else "_" for c in text)[:200] or f"tensor_{index}"
    # Names may repeat in a file; in a graph they may not.
    if name in seen:
        name = f"{name}_{index}"
    seen[name] = index
    where = f"{place}: tensor {index} ({name})"
    dtype = _TYPES.get(t.Type(), f"type {t.Type()}")
    raw_shape = t.ShapeAsNumpy()
    shape = tuple(int(n) for n in raw_shape) if isinstance(raw_shape, np.ndarray) else ()
    if len(shape) > _MAX_RANK:
        raise Mnv3cError(f"has {len(shape)} dimensions", where)
    if t.Sparsity() is not None:
        raise Mnv3cError("is sparse, which is not supported", where)
    if t.IsVariable():
        raise Mnv3cError("is a variable (the model keeps state), which is not supported", where)
    if not 0 <= t.Buffer() < len(buffers):
        raise Mnv3cError(f"refers to buffer {t.Buffer()} of {len(buffers)}", where)
    scale, zero_point, axis = _quantization(t.Quantization(), shape, where)
    data = _data(buffers[t.Buffer()], shape, dtype, where)
    return TensorInfo(index, name, shape, dtype, data, scale, zero_point, axis)


def _data(buffer: Any, shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray | None:
    if buffer.Offset() > 1:
        raise Mnv3cError("keeps its data outside of the flatbuffer, which is not supported", where)
    raw = buffer.DataAsNumpy()
    if not isinstance(raw, np.ndarray) or not raw.size:
        return None
    if dtype not in _ITEM:
        raise Mnv3cError(f"is a constant of {dtype}, which is not supported", where)
    count = math.prod(shape) if all(n >= 0 for n in shape) else -1
    if count * _ITEM[dtype] != raw.size:
        raise Mnv3cError(f"has {raw.size} bytes of data, which is not {dtype} {list(shape)}", where)
    return np.frombuffer(raw.tobytes(), np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _quantization(
    q: Any, shape: tuple[int, ...], where: str
) -> tuple[tuple[float, ...], tuple[int, ...], int]:
    if q is None:
        return (), (), 0
    scale = tuple(float(s) for s in _array(q.ScaleAsNumpy()))
    if not scale:
        return (), (), 0
    if q.Details() is not None:
        raise Mnv3cError("has a custom quantisation", where)
    zero_point = tuple(int(z) for z in _array(q.ZeroPointAsNumpy())) or (0,) * len(scale)
    bad = next((s for s in scale if not SMALLEST_SCALE <= s <= LARGEST_SCALE), None)
    if bad is not None:
        raise Mnv3cError(f"has a scale of {bad:g}", where)
    axis = int(q.QuantizedDimension())
    if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
        raise Mnv3cError(f"has {len(scale)} scales, which do not fit axis {axis} of {list(shape)}", where)
    if len(zero_point) not in (1, len(scale)):
        raise Mnv3cError(f"has {len(scale)} scales but {len(zero_point)} zero points", where)
    return scale, zero_point, axis


def _array(raw: Any) -> np.ndarray:
    return raw if isinstance(raw, np.ndarray) else np.zeros(0)


def _operator(index: int, o: Any, codes: list[tuple[str, int]], tensors: int) -> OperatorInfo:
    if not 0 <= o.OpcodeIndex() < len(codes):
        raise ValueError(f"operator {index} has no operator code")
    name, version = codes[o.OpcodeIndex()]
    return OperatorInfo(
        index=index,
        name=name,
        version=version,
        inputs=_indices(o.InputsAsNumpy(), tensors, f"inputs of operator {index} ({name})", least=-1),
        outputs=_indices(o.OutputsAsNumpy(), tensors, f"outputs of operator {index} ({name})"),
        options=_options(_OPTIONS.get(name), o, int),
        custom=_array(o.CustomOptionsAsNumpy()).astype(np.uint8).tobytes(),
        reals=_options(_REALS.get(name), o, float),
    )


def _options(known: tuple[str, tuple[str, ...]] | None, o: Any, as_number: type[N]) -> Mapping[str, N] | None:
    if known is None:
        return None
    kind, fields = known
    if o.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind) or o.BuiltinOptions() is None:
        return None
    table = o.BuiltinOptions()
    options = getattr(tflite, kind)()
    options.Init(table.Bytes, table.Pos)
    return {field: as_number(getattr(options, field)()) for field in fields}
