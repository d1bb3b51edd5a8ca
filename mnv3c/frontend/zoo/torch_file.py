"""Reading PyTorch checkpoints without PyTorch, and without running anything that is in them.

A checkpoint is a pickle whose tensors point into raw storages. The unpickler here knows the few names that
a state dict needs and refuses all others. Both containers are read: the zip file of PyTorch 1.6 and later
(``<name>/data.pkl``, ``<name>/data/<key>``) and the stream of pickles and storages before it.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnv3c.errors import Mnv3cError

MAX_BYTES = 2**31
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class _StorageType:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: _StorageType
    key: str
    elements: int


@dataclass(frozen=True)
class _TensorRef:
    """A strided view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _TensorRef:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _TensorRef(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _StorageType(name) for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which a state dict does not need")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("an unknown persistent id")
        if not isinstance(pid[1], _StorageType):
            raise pickle.UnpicklingError("a storage of unknown type")
        return _Storage(pid[1], str(pid[2]), int(pid[4]))


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint by name; float32 or integer arrays.

    Raises:
        Mnv3cError: no checkpoint, damaged, or holding more than a state dict.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file, str(path))
            file.seek(0)
            return _read_legacy(file, str(path))
    except Mnv3cError:
        raise
    except OSError as error:
        raise Mnv3cError(f"cannot read the file: {error.strerror or error}", str(path)) from None
    except Exception as error:
        # A damaged pickle fails in any of its opcodes, with any exception.
        detail = str(error) if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise Mnv3cError(f"not a PyTorch state dict, or damaged ({detail[:120]})", str(path)) from None


def _read_zip(file: BinaryIO, place: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        if sum(i.file_size for i in archive.infolist()) > MAX_BYTES:
            raise Mnv3cError("the checkpoint is larger than 2 GiB", place)
        pickles = [n for n in archive.namelist() if n.endswith("data.pkl")]
        if len(pickles) != 1:
            raise Mnv3cError("a zip file, but no PyTorch checkpoint", place)
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise Mnv3cError("a checkpoint of a big-endian machine is not supported", place)
        content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _tensors(content, lambda s: archive.read(f"{folder}data/{s.key}"), place)


def _read_legacy(file: BinaryIO, place: str) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise Mnv3cError("not a PyTorch checkpoint", place)
    _Unpickler(file).load()  # protocol version
    if not _Unpickler(file).load().get("little_endian", True):
        raise Mnv3cError("a checkpoint of a big-endian machine is not supported", place)
    content = _Unpickler(file).load()
    refs = {r.storage.key: r.storage for r in _flatten(content).values()}
    data: dict[str, bytes] = {}
    for key in _Unpickler(file).load():
        (elements,) = struct.unpack("<q", file.read(8))
        kind = refs[str(key)].kind.name if str(key) in refs else "FloatStorage"
        size = elements * np.dtype(_STORAGES[kind]).itemsize
        if not 0 <= size <= MAX_BYTES:
            raise Mnv3cError("a storage of impossible size", place)
        data[str(key)] = file.read(size)
    return _tensors(content, lambda s: data[s.key], place)


def _flatten(content: Any) -> dict[str, _TensorRef]:
    """The tensors of a state dict, which training scripts like to wrap in a dict of their own."""
    if not isinstance(content, Mapping):
        raise pickle.UnpicklingError("it is no dict")
    for key in ("state_dict", "model_state_dict", "model", "state_dict_ema"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, _TensorRef)}


def _tensors(content: Any, read: Callable[[_Storage], bytes], place: str) -> dict[str, np.ndarray]:
    storages: dict[str, np.ndarray] = {}
    tensors = {}
    for name, ref in _flatten(content).items():
        s = ref.storage
        if s.key not in storages:
            storages[s.key] = np.frombuffer(read(s), np.dtype(_STORAGES[s.kind.name]))
        flat = storages[s.key]
        last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
        inside = ref.offset >= 0 and min((*ref.stride, 0)) >= 0 and last < flat.size
        if any(n < 0 for n in ref.shape) or (math.prod(ref.shape) > 0 and not inside):
            raise Mnv3cError(f"tensor {name!r} reaches out of its storage", place)
        if math.prod(ref.shape) * 4 > MAX_BYTES:
            raise Mnv3cError(f"tensor {name!r} is too large", place)
        if math.prod(ref.shape) == 0:
            tensors[name] = np.zeros(ref.shape, np.float32)
            continue
        strides = [step * flat.itemsize for step in ref.stride]
        view = np.lib.stride_tricks.as_strided(flat[ref.offset :], ref.shape, strides)
        tensors[name] = _as_float(view, s.kind.name)
    return tensors


def _as_float(view: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(np.float32) if view.dtype.kind == "f" else view.copy()
