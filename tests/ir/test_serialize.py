"""Graphs survive a file exactly, and damaged files give one clear error."""

from __future__ import annotations

import dataclasses
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph, Quant, Tensor


def float_graph() -> Graph:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    return Graph(
        "tiny",
        (
            f.Conv2d("conv", ("x",), ("a",), weight, np.ones(4, np.float32), (2, 2), (0, 0, 1, 1)),
            f.Activation("relu", ("a",), ("b",), "clip", low=0.0),
            f.GlobalAveragePool("pool", ("b",), ("y",)),
        ),
        {
            "x": Tensor("x", (8, 8, 3)),
            "a": Tensor("a", (4, 4, 4)),
            "b": Tensor("b", (4, 4, 4)),
            "y": Tensor("y", (1, 1, 4)),
        },
        ("x",),
        ("y",),
        {"source": "zoo", "mean": [0.5, 0.25], "none": None},
    )


def int_graph() -> Graph:
    rng = np.random.default_rng(1)
    requant = q.Requant(np.full(4, 1 << 24, np.int32), high=100)
    conv = q.QConv(
        "conv", ("x",), ("a",),
        rng.integers(-127, 128, (4, 1, 1, 2)).astype(np.int8), np.arange(4, dtype=np.int32), requant,
    )  # fmt: skip
    swish = q.QHardSwish("swish", ("a",), ("y",), 2, np.full(1, 30000, np.int16), np.full(1, -3, np.int16))
    fused = q.FusedConv("fused", ("x",), ("y", "s"), conv, swish, None, q.ChannelSum("sum", ("y",), ("s",)))
    return Graph(
        "tiny",
        (fused,),
        {
            "x": Tensor("x", (3, 5, 2), "int8", Quant((0.1, 0.3), (0, -7))),
            "y": Tensor("y", (3, 5, 4), "int8", Quant((1 / 3,), (-3,))),
            "s": Tensor("s", (1, 1, 4), "int32"),
        },
        ("x",),
        ("y", "s"),
    )


def assert_equal(a: object, b: object) -> None:
    """Deep equality of types, arrays (dtype included) and fields."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif hasattr(a, "keys"):
        assert sorted(a) == sorted(b)
        for key in a:
            assert_equal(a[key], b[key])
    else:
        assert a == b


@pytest.mark.parametrize("graph", [float_graph(), int_graph()], ids=["float", "int"])
def test_round_trip(graph: Graph, tmp_path: Path) -> None:
    serialize.save(graph, tmp_path / "g.npz")
    again = serialize.load(tmp_path / "g.npz")
    assert_equal(again, graph)
    assert serialize.dumps(again) == (tmp_path / "g.npz").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]


def test_is_a_plain_npz_without_dates(tmp_path: Path) -> None:
    serialize.save(float_graph(), tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz", allow_pickle=False) as archive:
        assert archive["a0"].shape == (4, 3, 3, 3)
    with zipfile.ZipFile(tmp_path / "g.npz") as archive:
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_equal_arrays_are_stored_once() -> None:
    graph = float_graph()
    conv = graph.nodes[0]
    twin = dataclasses.replace(conv, name="twin", outputs=("z",), weight=conv.weight.copy())
    both = graph.replace(
        nodes=(*graph.nodes, twin), tensors={**graph.tensors, "z": Tensor("z", (4, 4, 4))}, outputs=("y", "z")
    )
    assert len(serialize.dumps(both)) < len(serialize.dumps(graph)) + conv.weight.nbytes + 800
    assert_equal(serialize.loads(serialize.dumps(both)), both)


def test_every_damaged_byte_is_noticed_or_harmless() -> None:
    data = serialize.dumps(int_graph())
    rng = random.Random(7)
    noticed = 0
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            assert_equal(serialize.loads(bytes(damaged), "g.npz"), int_graph())
        except Mnv3cError as error:
            assert error.place == "g.npz" and "\n" not in error.message
            noticed += 1
    assert noticed > 200
    for cut in range(0, len(data), 97):
        with pytest.raises(Mnv3cError):
            serialize.loads(data[:cut], "g.npz")


def test_other_version_and_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mnv3cError, match="No such file"):
        serialize.load(tmp_path / "none.npz")
    with pytest.raises(Mnv3cError, match="cannot write"):
        serialize.save(float_graph(), tmp_path / "no" / "folder.npz")
    monkeypatch.setattr(serialize, "VERSION", 99)
    data = serialize.dumps(float_graph())
    monkeypatch.undo()
    with pytest.raises(Mnv3cError, match="format version 99"):
        serialize.loads(data)


def test_pickles_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a0=np.array([object()], dtype=object))
    with pytest.raises(Mnv3cError):
        serialize.loads(buffer.getvalue(), "evil.npz")


def test_a_graph_that_breaks_a_rule_is_refused() -> None:
    graph = float_graph()
    wrong = dataclasses.replace(graph, tensors={**graph.tensors, "y": Tensor("y", (1, 1, 5))})
    with pytest.raises(Mnv3cError, match="pool"):
        serialize.loads(serialize.dumps(wrong), "g.npz")
