"""Quantised networks in files, ``.mnv3q``: quantising and compiling as separate steps.

``docs/quantised-file.md`` describes the format: a zip without compression that holds the integer graph and,
if there was one, the float graph it was made from, each as ``mnv3c.ir.serialize`` writes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops, int_ops, serialize
from mnv3c.ir.graph import Graph, Node

SUFFIX = ".mnv3q"
FORMAT = "mnv3c-quantised"
VERSION = 1
_MOST_BYTES = 1 << 31
_GRAPHS = ("integer", "float")


@dataclass(frozen=True, eq=False)
class QuantizedFile:
    """What a file holds.

    Attributes:
        integer: graph of primitive operators, as the quantiser or a front end made it.
        network: the float graph that was quantised; ``None`` for a model that came quantised.
    """

    integer: Graph
    network: Graph | None


def dumps(integer: Graph, network: Graph | None) -> bytes:
    """The file's bytes; equal graphs give equal bytes on every machine."""
    parts = {"integer": serialize.dumps(integer)}
    if network is not None:
        parts["float"] = serialize.dumps(network)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "graphs": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    }
    text = json.dumps(header, indent=1, sort_keys=True).encode() + b"\n"
    members = {"header.json": text, "header.sha256": hashlib.sha256(text).hexdigest().encode() + b"\n"}
    members |= {f"{name}.npz": data for name, data in parts.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def save(path: Path | str, integer: Graph, network: Graph | None) -> None:
    """Write a file (by way of one beside it, so never half).

    Raises:
        Mnv3cError: it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(dumps(integer, network))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(path)) from None


def load(path: Path | str) -> QuantizedFile:
    """Read a file.

    Raises:
        Mnv3cError: it is missing, damaged or of another version.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror or error}", str(path)) from None
    return loads(data, str(path))


def loads(data: bytes, place: str = "") -> QuantizedFile:
    """What ``data`` holds; ``place`` names its origin in errors.

    Raises:
        Mnv3cError: as for ``load``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = _parts(archive, place)
    except (
        zipfile.BadZipFile, KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError,
        EOFError, NotImplementedError, RuntimeError, OSError, MemoryError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        raise Mnv3cError(f"damaged {SUFFIX} file: {str(error)[:200]}", place) from None
    graphs = {name: serialize.loads(part, f"{place}: {name} graph") for name, part in parts.items()}
    _check(graphs["integer"], int_ops, "integer", place)
    if "float" in graphs:
        _check(graphs["float"], float_ops, "float", place)
        _check_pair(graphs["integer"], graphs["float"], place)
    return QuantizedFile(graphs["integer"], graphs.get("float"))


def _parts(archive: zipfile.ZipFile, place: str) -> dict[str, bytes]:
    text = _read(archive, "header.json")
    if hashlib.sha256(text).hexdigest().encode() != _read(archive, "header.sha256").strip():
        raise ValueError("header.json does not match its checksum")
    header: dict[str, Any] = json.loads(text)
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r} is not {FORMAT!r}")
    if header["version"] != VERSION:
        raise Mnv3cError(f"format version {header['version']}; this mnv3c reads version {VERSION}", place)
    graphs = header["graphs"]
    if "integer" not in graphs or not set(graphs) <= set(_GRAPHS):
        raise ValueError(f"graphs {', '.join(map(str, graphs)) or 'none'}; integer and perhaps float wanted")
    parts = {name: _read(archive, f"{name}.npz") for name in graphs}
    for name, part in parts.items():
        if hashlib.sha256(part).hexdigest() != graphs[name]:
            raise ValueError(f"the {name} graph does not match its checksum")
    return parts


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _MOST_BYTES:
        raise ValueError(f"member {name} is compressed or too large")
    return archive.read(info)


def _check(graph: Graph, family: Any, name: str, place: str) -> None:
    for node in graph.nodes:
        if not isinstance(node, Node) or type(node) not in vars(family).values():
            raise Mnv3cError(f"operator {type(node).__name__} in the {name} graph", place)
        if isinstance(node, int_ops.FusedConv):
            raise Mnv3cError("a fused operator; the graph before fusion is wanted", f"{place}: {node.name}")


def _check_pair(integer: Graph, network: Graph, place: str) -> None:
    shapes = [[g.tensor(i).shape for i in g.inputs] for g in (integer, network)]
    if shapes[0] != shapes[1] or len(integer.outputs) != len(network.outputs):
        raise Mnv3cError("the float and the integer graph have different inputs or outputs", place)
