"""A ``.pt2`` archive, looked at before PyTorch loads it.

``torch.export.load`` unpickles what the archive's tables call pickled, opens shared libraries that it
carries, and calls the functions that its graph names. None of that is needed for a network of tensors, and
so none of it is let through; what remains is data.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.onnx_model.read import printable

MAX_FILE_BYTES = 2**31 - 1
MAX_NODES = 10_000
# Of one operator of PyTorch, or the choice of one of several results; nothing else is called.
_TARGET = re.compile(r"torch\.ops\.\w+\.\w+\.\w+|_operator\.getitem")
_QUANTIZED = "torch.ops.quantized_decomposed."
_GRAPH = "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_ALLOWED = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment|"
    + "|".join(map(re.escape, (_GRAPH, *_TABLES, _SAMPLES)))
    + r"|data/weights/weight_\d+|data/constants/tensor_\d+|extra/[^/]+"
)


@dataclass(frozen=True)
class Contents:
    """What an archive says of itself.

    Attributes:
        sha256: of the file, in hex.
        torch_version: that wrote it.
        samples: the pickled sample inputs, or nothing; PyTorch loads them with its program.
        quantized: whether the program quantises anything.
    """

    sha256: str
    torch_version: str
    samples: bytes
    quantized: bool


def check_archive(path: Path) -> Contents:
    """Refuse an archive that is damaged, or that holds more than a graph of PyTorch's operators and tensors.

    Raises:
        Mnv3cError: names the file, and the entry or the operator.
    """
    place = str(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Mnv3cError("has 2 GiB or more, which is not supported", place)
        data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, place)
            graph = _json(entries, _GRAPH, place)
            for table in _TABLES:
                _check_table(_json(entries, table, place), f"{place}: {table}")
    except OSError as error:
        raise Mnv3cError(f"cannot read the file: {error.strerror or error}", place) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        raise Mnv3cError("not a .pt2 file of torch.export.save, or truncated or corrupted", place) from None
    _check_graph(graph, place)
    version = graph.get("torch_version")
    targets = [str(node["target"]) for node in graph["graph_module"]["graph"]["nodes"]]
    return Contents(
        sha256=hashlib.sha256(data).hexdigest(),
        torch_version=version[:40] if isinstance(version, str) and version.isprintable() else "unknown",
        samples=entries.get(_SAMPLES, b""),
        quantized=any(target.startswith(_QUANTIZED) for target in targets),
    )


def _entries(archive: zipfile.ZipFile, place: str) -> dict[str, bytes]:
    """Every entry by its name below the archive's one folder; read in full, which checks the checksums."""
    names = archive.namelist()
    if "serialized_exported_program.json" in names:
        raise Mnv3cError("is of an old format; load it and save it again with a newer PyTorch", place)
    if any(n.endswith("/data.pkl") for n in names):
        raise Mnv3cError(
            "holds pickled weights or a TorchScript module, no exported program; use torch.export.save", place
        )
    entries: dict[str, bytes] = {}
    folders = set()
    for info in archive.infolist():
        folder, _, name = info.filename.partition("/")
        folders.add(folder)
        if info.compress_type != zipfile.ZIP_STORED or name in entries:
            raise zipfile.BadZipFile
        if not _ALLOWED.fullmatch(name):
            where = f"{place}: {printable(info.filename)!r}"
            raise Mnv3cError("the archive holds more than a network of tensors", where)
        entries[name] = archive.read(info)
    if len(folders) != 1 or _GRAPH not in entries:
        raise Mnv3cError("holds no program named 'model'; write it with torch.export.save", place)
    return entries


def _json(entries: Mapping[str, bytes], name: str, place: str) -> dict[str, Any]:
    if name not in entries:
        raise Mnv3cError("is missing in the archive", f"{place}: {name}")
    try:
        value = json.loads(entries[name])
    except (ValueError, RecursionError):
        raise Mnv3cError("is damaged", f"{place}: {name}") from None
    if not isinstance(value, dict):
        raise Mnv3cError("is damaged", f"{place}: {name}")
    return value


def _check_table(table: Mapping[str, Any], place: str) -> None:
    """Each tensor is bytes and a shape."""
    config = table.get("config")
    if not isinstance(config, dict):
        raise Mnv3cError("is damaged", place)
    for tensor, facts in config.items():
        if not isinstance(facts, dict) or facts.get("use_pickle") is not False:
            raise Mnv3cError(f"tensor {printable(tensor)!r} is pickled, which is not supported", place)
        if not re.fullmatch(r"(weight|tensor)_\d+", str(facts.get("path_name"))):
            raise Mnv3cError(f"{printable(tensor)!r} is no tensor", place)


# What PyTorch's schema has for sizes that are computed (which it parses as Python), and for no tensors.
_DYNAMIC = ("as_expr", "expr_str")
_PROGRAMS = ("as_graph", "as_custom_obj", "as_opaque_obj", "as_operator")


def _check_graph(model: Mapping[str, Any], place: str) -> None:
    """Static shapes, and calls of operators alone."""
    keys = set(_keys(model))
    if model.get("range_constraints") or model.get("guards_code") or keys.intersection(_DYNAMIC):
        raise Mnv3cError("has dynamic shapes; export it without dynamic_shapes, for one image", place)
    module = model.get("graph_module")
    graph = module.get("graph") if isinstance(module, dict) else None
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not all(isinstance(n, dict) for n in nodes):
        raise Mnv3cError("is damaged", f"{place}: {_GRAPH}")
    if len(nodes) > MAX_NODES:
        raise Mnv3cError(f"{len(nodes)} operators; at most {MAX_NODES} are supported", place)
    for node in nodes:
        target = str(node.get("target"))
        if not _TARGET.fullmatch(target):
            where = f"{place}: node {printable(str(node.get('name')))!r}"
            raise Mnv3cError(f"operator {printable(target)} is not supported", where)
    if keys.intersection(_PROGRAMS):
        raise Mnv3cError("has control flow or custom objects, which is not supported", place)


def _keys(value: Any) -> Iterator[str]:
    """Every key of nested dictionaries; without recursion, because the file decides on the depth."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            yield from here
            waiting.extend(here.values())
        elif isinstance(here, list):
            waiting.extend(here)
