"""A generated library on disk, as its ``manifest.json`` describes it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3c.codegen.write import MANIFEST
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import DTYPE_BYTES, Shape

_MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: dense ``[H][W][C]`` of ``dtype``; ``real = scale * (q - zero_point)``."""

    name: str
    shape: Shape
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Library:
    """A generated library.

    Attributes:
        paths: best first.
        target: the name it was compiled for.
        manifest: everything else that the file says.
    """

    directory: Path
    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    arena_bytes: int
    paths: tuple[str, ...]
    target: str
    manifest: Mapping[str, Any]

    @property
    def sources(self) -> list[Path]:
        """The C files to compile, in a fixed order; others in the folder are not the library's."""
        names = self.manifest.get("files") or [p.name for p in self.directory.glob("*.c")]
        return sorted(self.directory / n for n in names if re.fullmatch(r"[^/\\]+\.c", n))

    def changed_files(self) -> list[str]:
        """Files that are not as the manifest says, each with what is wrong."""
        wrong = []
        for name, entry in self.manifest.get("files", {}).items():
            path = self.directory / name
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                wrong.append(f"{name} was changed")
        return wrong

    def check_inputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Contiguous arrays of the right shape and dtype.

        Raises:
            Mnv3cError: names the input that is not.
        """
        if len(inputs) != len(self.inputs):
            raise Mnv3cError(f"{len(inputs)} inputs given, the library takes {len(self.inputs)}", self.name)
        for info, array in zip(self.inputs, inputs, strict=True):
            if tuple(array.shape) != info.shape or array.dtype != np.dtype(info.dtype):
                got = f"{array.dtype} {tuple(array.shape)}"
                raise Mnv3cError(f"must be {info.dtype} {info.shape}, got {got}", f"input {info.name}")
        return [np.ascontiguousarray(a) for a in inputs]


def open_library(directory: Path | str) -> Library:
    """Read a library's manifest.

    Raises:
        Mnv3cError: the folder holds no generated library, or its manifest is damaged.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Mnv3cError(f"no generated library here ({MANIFEST} is missing)", str(directory)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mnv3cError(f"cannot read: {error}", str(path)) from None
    try:
        manifest = json.loads(text)
        library = Library(
            directory=directory,
            name=str(manifest["name"]),
            inputs=tuple(_tensor(t) for t in manifest["inputs"]),
            outputs=tuple(_tensor(t) for t in manifest["outputs"]),
            arena_bytes=int(manifest["arena_bytes"]),
            paths=tuple(manifest["paths"]),
            target=str(manifest.get("settings", {}).get("target", manifest.get("target", "arm64"))),
            manifest=manifest,
        )
        _check(library)
        return library
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Mnv3cError(f"damaged manifest: {type(error).__name__} {error}", str(path)) from None


def _check(library: Library) -> None:
    """What building and running rely on; raises ``ValueError``."""
    for word in (library.name, *library.paths):
        if not isinstance(word, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word):
            raise ValueError(f"{word!r} is not an identifier")
    if not library.inputs or not library.outputs or not library.paths:
        raise ValueError("no inputs, outputs or paths")
    if not 0 < library.arena_bytes <= _MOST_BYTES:
        raise ValueError(f"an arena of {library.arena_bytes} bytes")
    for entry in library.manifest.get("files", {}).values():
        if not isinstance(entry["sha256"], str):
            raise ValueError("a sha256 that is no text")


def _tensor(entry: Mapping[str, Any]) -> TensorInfo:
    height, width, channels = (int(n) for n in entry["shape"])
    if entry["dtype"] not in DTYPE_BYTES:
        raise ValueError(f"unknown dtype {entry['dtype']!r}")
    if min(height, width, channels) < 1 or height * width * channels > _MOST_BYTES:
        raise ValueError(f"shape {entry['shape']}")
    return TensorInfo(
        name=str(entry["name"]),
        shape=(height, width, channels),
        dtype=entry["dtype"],
        scale=tuple(float(v) for v in _several(entry.get("scale"))),
        zero_point=tuple(int(v) for v in _several(entry.get("zero_point"))),
    )


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
