"""Damaged ``.mnv3q`` files: each loads unharmed or gives one clear line; none crashes or hangs.

Structured changes come with fresh checksums, so that they reach the checks behind those.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections import Counter
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.quant import file as quantized_file
from mnv3c.quant import quantize
from tests.quant.networks import block_network, inputs

COUNT = 600
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 1 << 31, 1 << 70, 0.5, float("nan"), "", "x", "int16", "float32", [], [0], {},
    {"$array": 0}, {"$array": -1}, {"$array": 10**9}, {"$array": "a"}, {"$float": "x"}, {"$float": "nan"},
    {"$class": "QConv"}, {"$class": "Graph"}, {"$class": []}, [[[[]]]],
)  # fmt: skip


def whole() -> bytes:
    graph = block_network(1)
    raised = frozenset({"expand_act", "gated", "sum", "pool2"})  # 16 bits have rules of their own
    return quantized_file.dumps(quantize(graph, inputs(graph, 2, 1), raised=raised), graph)


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def resigned(parts: dict[str, bytes], header: Any) -> bytes:
    text = json.dumps(header).encode()
    return packed({**parts, "header.json": text, "header.sha256": hashlib.sha256(text).hexdigest().encode()})


def change(value: Any, rng: random.Random) -> Any:
    """``value`` with one thing somewhere inside it replaced, removed, repeated or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        kind = rng.random()
        if kind < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.12:
            return {**value, rng.choice(("extra", "$class", "$array")): rng.choice(VALUES)}
        return {**value, key: change(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.06:
            return value[:at] + value[at + 1 :]
        if kind < 0.12:
            return [*value, value[at]]
        return [*value[:at], change(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def damage(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choices(("flip", "cut", "outer", "graph", "array", "member"), (5, 1, 2, 8, 2, 1))[0]
    if kind == "flip":
        raw = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 12))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return kind, bytes(raw)
    if kind == "cut":
        return kind, data[: rng.randrange(len(data))]
    parts = members(data)
    header = json.loads(parts["header.json"])
    if kind == "outer":
        return kind, resigned(parts, change(header, rng))
    if kind == "member":
        del parts[rng.choice(sorted(parts))]
        return kind, packed(parts)
    which = rng.choice(("integer", "float"))
    inner = members(parts[f"{which}.npz"])
    inner_header = json.loads(inner["header.json"])
    if kind == "graph":
        inner_header = change(inner_header, rng)
    else:
        at = rng.randrange(len(inner_header["arrays"]))
        raw = bytearray(inner[f"a{at}.npy"])
        raw[rng.randrange(min(len(raw), 140))] ^= 1 << rng.randrange(8)
        inner[f"a{at}.npy"] = bytes(raw)
        inner_header["arrays"][at] = hashlib.sha256(raw).hexdigest()
    parts[f"{which}.npz"] = resigned(inner, inner_header)
    header["graphs"][which] = hashlib.sha256(parts[f"{which}.npz"]).hexdigest()
    return kind, resigned(parts, header)


def test_damaged_files_give_one_clear_line() -> None:
    data = whole()
    refused: Counter[str] = Counter()
    loaded: Counter[str] = Counter()
    for seed in range(COUNT):
        kind, damaged = damage(data, random.Random(seed))
        try:
            quantized_file.loads(damaged, "net.mnv3q")
            loaded[kind] += 1
        except Mnv3cError as error:
            text = str(error)
            assert text.startswith("net.mnv3q") and "\n" not in text and len(text) < 1000, (seed, text)
            refused[kind] += 1
    assert refused["cut"] and not loaded["cut"]
    assert not loaded["member"]
    # A flipped bit may fall on a date of the zip, a changed value on a free fact or a name.
    assert sum(refused.values()) > 0.6 * COUNT, (refused, loaded)
