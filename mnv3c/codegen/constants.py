"""Constant arrays as C text, equal contents stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant

_STORAGE = {
    np.dtype(np.int8): "uint64_t",
    np.dtype(np.uint8): "uint64_t",
    np.dtype(np.int16): "int16_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.float32): "float",
}
_ELEMENT = {
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.int16): "int16_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.float32): "float",
}
# Small byte tables stay readable as numbers.
_WORDS_FROM = 512


@dataclass(frozen=True)
class StoredConstant:
    """An array as it stands in ``<name>_weights.c``.

    Attributes:
        symbol: its C name.
        storage: C type of an element as stored (bytes may be stored as 64-bit words).
        element: C type through which it is read.
        length: elements as stored.
        bytes: as stored.
        text: the initialiser, in lines.
    """

    symbol: str
    storage: str
    element: str
    length: int
    bytes: int
    align: int
    role: str
    comment: str
    text: str


class ConstantPool:
    """Collects the constants of all paths; ``add`` returns the symbol that holds the contents."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._by_content: dict[tuple[str, bytes], StoredConstant] = {}
        self._symbols: set[str] = set()

    def add(self, constant: Constant) -> StoredConstant:
        data = np.ascontiguousarray(constant.data)
        digest = hashlib.sha256(data.tobytes()).digest()
        key = (data.dtype.str, digest)
        known = self._by_content.get(key)
        if known is None or known.align < constant.align:
            symbol = known.symbol if known else self._symbol(constant.name)
            known = _store(symbol, constant, data)
            self._by_content[key] = known
        return known

    def _symbol(self, name: str) -> str:
        symbol, n = f"{self._prefix}_{name}", 1
        while symbol in self._symbols:
            n += 1
            symbol = f"{self._prefix}_{name}_{n}"
        self._symbols.add(symbol)
        return symbol

    def stored(self) -> list[StoredConstant]:
        return list(self._by_content.values())


def _store(symbol: str, constant: Constant, data: np.ndarray) -> StoredConstant:
    flat = data.reshape(-1)
    dtype = flat.dtype
    storage, element = _STORAGE[dtype], _ELEMENT[dtype]
    stored = flat
    if storage == "uint64_t":
        if flat.size >= _WORDS_FROM:
            padded = np.zeros(-(-flat.size // 8) * 8, np.uint8)
            padded[: flat.size] = flat.view(np.uint8)
            stored = padded.view("<u8")
        else:
            storage = element
    return StoredConstant(
        symbol=symbol,
        storage=storage,
        element=element,
        length=int(stored.size),
        bytes=int(stored.nbytes),
        align=max(constant.align, stored.itemsize),
        role=constant.role,
        comment=f"{constant.name}: {constant.role}, {element} [{']['.join(str(n) for n in data.shape)}]",
        text="".join(_lines(stored)),
    )


def _lines(values: np.ndarray) -> Iterable[str]:
    if values.dtype.itemsize == 8:
        texts = [f"0x{v:016x}U" for v in values.tolist()]
        width = 5
    elif values.dtype.kind == "f":
        texts = [_float(v) for v in values]
        width = 6
    else:
        # INT32_MIN has no literal of its own in C; no constant of ours is that small.
        texts = [str(v) for v in values.tolist()]
        width = 16
    for i in range(0, len(texts), width):
        yield "    " + ", ".join(texts[i : i + width]) + ",\n"


def _float(value: np.float32) -> str:
    """A float32 as hexadecimal C literal: exact."""
    return f"{float(value).hex()}F"
