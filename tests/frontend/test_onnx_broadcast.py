"""Sums and products that broadcast, as ONNX files have them, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir import float_ops as f
from tests.frontend.onnx_models import CHANNELS, CONV, check, convolution, kinds, model, node

HEIGHT, WIDTH = 12, 10
# What axes an operand has of its own: C(hannels), H(eight), W(idth).
OWN = ("C", "HW", "", "HC", "WC", "H", "W", "HWC")


def operand(name: str, own: str) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """A tensor ``name`` that is computed from ``c``."""
    wide = f"{name}_wide"
    if "H" in own and "W" in own:
        nodes = [node("Relu", ["c"], wide)]
    elif own in ("C", ""):
        nodes = [node("GlobalAveragePool", ["c"], wide)]
    else:
        kernel = [1, WIDTH] if "H" in own else [HEIGHT, 1]
        nodes = [node("AveragePool", ["c"], wide, kernel_shape=kernel)]
    rng = np.random.default_rng(len(own))
    out = CHANNELS if "C" in own else 1
    constants = {f"{name}_w": rng.normal(0, 1, (out, CHANNELS, 1, 1)).astype(np.float32)}
    return [*nodes, node("Conv", [wide, f"{name}_w"], name)], constants


def shape(own: str) -> tuple[int, int, int, int]:
    return 1, CHANNELS if "C" in own else 1, HEIGHT if "H" in own else 1, WIDTH if "W" in own else 1


def network(nodes: list[NodeProto], constants: dict[str, np.ndarray]) -> object:
    whole = (1, 3, HEIGHT, WIDTH)
    return model([CONV, *nodes], convolution() | constants, shape=whole)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("own", OWN)
def test_map_and_computed_tensor(own: str, op: str, tmp_path: Path) -> None:
    for swap in (False, True):
        nodes, constants = operand("t", own)
        last = node(op, ["t", "c"] if swap else ["c", "t"], "y")
        graph = check(network([*nodes, last], constants), tmp_path)
        assert kinds(graph)[-1] == {"Add": "Add", "Mul": "Multiply"}[op]
        assert graph.tensor(graph.outputs[0]).shape == (HEIGHT, WIDTH, CHANNELS)


@pytest.mark.parametrize(("a", "b"), [("H", "W"), ("HW", "C"), ("HC", "WC"), ("C", "")])
def test_result_larger_than_either_operand(a: str, b: str, tmp_path: Path) -> None:
    first, constants = operand("s", a)
    second, more = operand("t", b)
    for op in ("Add", "Mul"):
        graph = check(network([*first, *second, node(op, ["s", "t"], "y")], constants | more), tmp_path)
        own = set(a) | set(b)
        want = (HEIGHT if "H" in own else 1, WIDTH if "W" in own else 1, CHANNELS if "C" in own else 1)
        assert graph.tensor(graph.outputs[0]).shape == want


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("own", ["HW", "HC", "WC", "H", "W", "HWC"])
def test_constants_that_differ_from_pixel_to_pixel(own: str, op: str, tmp_path: Path) -> None:
    values = np.random.default_rng(3).uniform(0.5, 2, shape(own)).astype(np.float32)
    for k in (values, values[0]):
        graph = check(network([node(op, ["c", "k"], "y")], {"k": k}), tmp_path)
        constants = [n for n in graph if isinstance(n, f.Constant)]
        assert [n.values.shape for n in constants] == [(*shape(own)[2:], shape(own)[1])]
    if op != "Div":
        check(network([node(op, ["k", "c"], "y")], {"k": values}), tmp_path)


@pytest.mark.parametrize("own", ["C", ""])
def test_constants_of_channels_still_fold(own: str, tmp_path: Path) -> None:
    values = np.full(shape(own), 1.5, np.float32) + np.arange(shape(own)[1], dtype=np.float32)[:, None, None]
    written_out = np.broadcast_to(values, shape("HWC")).copy()
    for k in (values, written_out):
        for op in ("Add", "Mul"):
            graph = check(network([node(op, ["c", "k"], "y")], {"k": k}), tmp_path)
            assert kinds(graph) == ["Conv2d"]


def test_a_constant_that_widens_a_vector(tmp_path: Path) -> None:
    values = np.random.default_rng(3).uniform(0.5, 2, shape("HWC")).astype(np.float32)
    nodes, constants = operand("t", "C")
    for op in ("Add", "Mul"):
        graph = check(network([*nodes, node(op, ["t", "k"], "y")], constants | {"k": values}), tmp_path)
        assert graph.tensor(graph.outputs[0]).shape == (HEIGHT, WIDTH, CHANNELS)


def test_spatial_attention_with_a_sigmoid_and_a_residual(tmp_path: Path) -> None:
    """CBAM's last step: a sigmoid of one channel times the map, added to it."""
    nodes, constants = operand("t", "HW")
    nodes += [node("Sigmoid", ["t"], "s"), node("Mul", ["s", "c"], "m"), node("Add", ["m", "c"], "y")]
    graph = check(network(nodes, constants), tmp_path)
    assert kinds(graph)[-3:] == ["sigmoid", "Multiply", "Add"]


def test_channels_last(tmp_path: Path) -> None:
    """Between two transposes; a vector of rank two is then one value a channel."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(0, 1, (CHANNELS, CHANNELS)).astype(np.float32)
    pixels = rng.normal(0, 1, (HEIGHT, WIDTH, 1)).astype(np.float32)
    nodes = [
        node("Transpose", ["c"], "last", perm=[0, 2, 3, 1]),
        node("GlobalAveragePool", ["c"], "p"),
        node("Flatten", ["p"], "f"),
        node("MatMul", ["f", "matrix"], "v"),
        node("Mul", ["v", "last"], "m"),
        node("Add", ["m", "pixels"], "a"),
        node("Transpose", ["a"], "y", perm=[0, 3, 1, 2]),
    ]
    graph = check(network(nodes, {"matrix": matrix, "pixels": pixels}), tmp_path)
    assert kinds(graph)[-3:] == ["Multiply", "constant", "Add"] or kinds(graph)[-2:] == ["Constant", "Add"]


@pytest.mark.parametrize(
    ("nodes", "constants", "says"),
    [
        ([node("Add", ["c", "k"], "y")], {"k": (2, 6, 12, 10)}, "[1, 6, 12, 10] and [2, 6, 12, 10]"),
        ([node("Mul", ["c", "k"], "y")], {"k": (5, 1)}, "[1, 6, 12, 10] and [5, 1]"),
        ([node("Add", ["c", "k"], "y")], {"k": (1, 1, 6, 12, 10)}, "[1, 1, 6, 12, 10]"),
        (
            [
                node("GlobalAveragePool", ["c"], "p"),
                node("Flatten", ["p"], "f"),
                node("Add", ["f", "k"], "y"),
            ],
            {"k": (4, 6)},
            "[1, 6] and [4, 6]",
        ),
        (
            [
                node("GlobalAveragePool", ["c"], "p"),
                node("Flatten", ["p"], "f"),
                node("Conv", ["c", "wide"], "d"),
                node("Mul", ["d", "f"], "y"),
            ],
            {"wide": (6, 6, 1, 5)},
            "[1, 6, 12, 6] with [1, 6]",
        ),
    ],
)
def test_refused(
    nodes: list[NodeProto], constants: dict[str, tuple[int, ...]], says: str, tmp_path: Path
) -> None:
    arrays = {k: np.random.default_rng(0).normal(0, 1, s).astype(np.float32) for k, s in constants.items()}
    path = tmp_path / "model.onnx"
    path.write_bytes(network(nodes, arrays).SerializeToString())  # type: ignore[attr-defined]
    with pytest.raises(Mnv3cError) as caught:
        load(str(path))
    message = str(caught.value)
    assert says in message and "\n" not in message
