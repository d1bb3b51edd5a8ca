"""Graphs in files: one ``.npz`` holds a graph of either IR, exactly.

The file is a zip without compression (so its bytes depend on nothing but the graph) of

- ``header.json``: format version, the graph's structure, and the sha256 of every array;
- ``header.sha256``: the sha256 of ``header.json`` in hexadecimal;
- ``a<number>.npy``: the arrays, little-endian, C order; arrays of equal contents are stored once.

Frozen dataclasses are written field by field with their class's name, so a new operator needs
nothing here. Nothing is unpickled; only classes of ``mnv3c.ir`` can come out of a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops, int_ops
from mnv3c.ir.graph import Graph, Node, Quant, Tensor
from mnv3c.ir.verify import InvalidGraph, verify

FORMAT = "mnv3c-graph"
VERSION = 1

_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (Quant, Tensor, *vars(float_ops).values(), *vars(int_ops).values())
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls is not Node
}
_MAX_BYTES = 1 << 31


class _Writer:
    """Collects the arrays of one graph while its structure is turned into JSON."""

    def __init__(self) -> None:
        self.members: list[bytes] = []
        self.digests: list[str] = []
        self._index: dict[str, int] = {}

    def encode(self, value: object) -> Any:
        if isinstance(value, np.ndarray):
            return {"$array": self._array(value)}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"$float": repr(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list):
            return [self.encode(v) for v in value]
        if type(value).__name__ in _CLASSES and dataclasses.is_dataclass(value):
            fields = {f.name: self.encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"$class": type(value).__name__, **fields}
        raise TypeError(f"a graph cannot hold a {type(value).__name__}")

    def _array(self, array: np.ndarray) -> int:
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, plain, version=(1, 0), allow_pickle=False)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        if digest not in self._index:
            self._index[digest] = len(self.members)
            self.members.append(buffer.getvalue())
            self.digests.append(digest)
        return self._index[digest]


def dumps(graph: Graph) -> bytes:
    """The file's bytes; equal graphs give equal bytes on every machine."""
    writer = _Writer()
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "nodes": writer.encode(graph.nodes),
        "tensors": writer.encode(tuple(graph.tensors.values())),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "meta": dict(graph.meta),
        "arrays": writer.digests,
    }
    text = json.dumps(header, indent=1, sort_keys=True, default=_plain).encode() + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _member(archive, "header.json", text)
        _member(archive, "header.sha256", hashlib.sha256(text).hexdigest().encode() + b"\n")
        for i, data in enumerate(writer.members):
            _member(archive, f"a{i}.npy", data)
    return buffer.getvalue()


def _plain(value: object) -> object:
    """JSON form of what free facts may hold beyond JSON's own types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a graph's meta cannot hold a {type(value).__name__}")


def _member(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def save(graph: Graph, path: Path | str) -> None:
    """Write ``graph`` to ``path`` (by way of a file beside it, so never half).

    Raises:
        Mnv3cError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(dumps(graph))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(path)) from None


def load(path: Path | str) -> Graph:
    """Read a graph.

    Raises:
        Mnv3cError: the file is missing, damaged, or of another version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror or error}", str(path)) from None
    return loads(data, str(path))


def loads(data: bytes, place: str = "") -> Graph:
    """The graph in ``data``; ``place`` names its origin in errors.

    Raises:
        Mnv3cError: as for ``load``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            header = _header(archive, place)
            arrays = [_array(archive, i, digest) for i, digest in enumerate(header["arrays"])]
        return _graph(header, arrays)
    except InvalidGraph as error:
        raise Mnv3cError(f"not a well-formed graph: {error}", place) from None
    except (
        zipfile.BadZipFile, KeyError, ValueError, TypeError, IndexError, AttributeError,
        OverflowError, EOFError, NotImplementedError, RuntimeError, OSError, SyntaxError, MemoryError,
        ZeroDivisionError, struct.error, tokenize.TokenError, zlib.error,
    ) as error:  # fmt: skip
        raise Mnv3cError(f"damaged graph file: {str(error)[:200]}", place) from None


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _MAX_BYTES:
        raise ValueError(f"member {name} is compressed or too large")
    return archive.read(info)


def _header(archive: zipfile.ZipFile, place: str) -> dict[str, Any]:
    text = _read(archive, "header.json")
    if hashlib.sha256(text).hexdigest().encode() != _read(archive, "header.sha256").strip():
        raise ValueError("header.json does not match its checksum")
    header = json.loads(text)
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r} is not {FORMAT!r}")
    if header["version"] != VERSION:
        raise Mnv3cError(f"format version {header['version']}; this mnv3c reads version {VERSION}", place)
    return dict(header)


def _array(archive: zipfile.ZipFile, index: int, digest: str) -> np.ndarray:
    data = _read(archive, f"a{index}.npy")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"array {index} does not match its checksum")
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    array.setflags(write=False)
    return array


def _graph(header: dict[str, Any], arrays: list[np.ndarray]) -> Graph:
    tensors = _decode(header["tensors"], arrays)
    return verify(
        Graph(
            name=header["name"],
            nodes=_decode(header["nodes"], arrays),
            tensors={t.name: t for t in tensors},
            inputs=tuple(header["inputs"]),
            outputs=tuple(header["outputs"]),
            meta=header["meta"],
        )
    )


def _decode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, arrays) for v in value)
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$float" in value:
        return float(value["$float"])
    fields = dict(value)
    cls = _CLASSES[fields.pop("$class")]
    return cls(**{k: _decode(v, arrays) for k, v in fields.items()})
