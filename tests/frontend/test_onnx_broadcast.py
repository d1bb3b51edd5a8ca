"""Sums and products that broadcast, as ONNX files have them, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir import float_ops as f
from mnv3c.ir.broadcast import repeats
from mnv3c.reference.floating import run
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


class Random:
    """A network of pools, renamed axes, and sums and products of whatever fits."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = [CONV]
        self.constants = convolution()
        self.values = [("c", (1, CHANNELS, 5, 4))]
        for _ in range(int(self.rng.integers(4, 9))):
            step = (self.pool, self.rename, self.rename, self.constant, self.pair, self.pair)
            step[int(self.rng.integers(6))](*self.values[int(self.rng.integers(len(self.values)))])
        last = self.values[-1][0]
        self.nodes += [node("Relu", [last], "positive"), node("Add", ["positive", last], "y")]

    def emit(self, op: str, inputs: list[str], dims: tuple[int, ...], **attributes: object) -> None:
        name = f"v{len(self.values)}"
        self.nodes.append(node(op, inputs, name, **attributes))
        self.values.append((name, dims))

    def put(self, array: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = array
        return name

    def pool(self, x: str, dims: tuple[int, ...]) -> None:
        if len(dims) == 4:
            kernel = [n if self.rng.integers(2) else 1 for n in dims[2:]]
            pooled = (*dims[:2], *(n // k for n, k in zip(dims[2:], kernel, strict=True)))
            self.emit("AveragePool", [x], pooled, kernel_shape=kernel)

    def rename(self, x: str, dims: tuple[int, ...]) -> None:
        if len(dims) == 4 and self.rng.integers(2):
            order = ([0, 2, 3, 1], [0, 3, 1, 2])[int(self.rng.integers(2))]
            self.emit("Transpose", [x], tuple(dims[i] for i in order), perm=order)
            return
        long = [n for n in dims if n > 1]
        rank = int(self.rng.integers(max(2, len(long) + 1), 5))
        new = np.ones(rank, np.int64)
        new[sorted(self.rng.choice(np.arange(1, rank), len(long), replace=False))] = long
        self.emit("Reshape", [x, self.put(new)], tuple(new.tolist()))

    def constant(self, x: str, dims: tuple[int, ...]) -> None:
        own = [n if self.rng.integers(2) else 1 for n in dims[int(self.rng.integers(len(dims) + 1)) :]]
        op = str(self.rng.choice(["Add", "Mul", "Sub", "Div"]))
        pair = [x, self.put(self.rng.uniform(0.5, 2, own).astype(np.float32))]
        self.emit(op, pair if op == "Div" or self.rng.integers(2) else pair[::-1], dims)

    def pair(self, x: str, dims: tuple[int, ...]) -> None:
        y, others = self.values[int(self.rng.integers(len(self.values)))]
        fits = all(m == n or 1 in (m, n) for m, n in zip(dims[::-1], others[::-1], strict=False))
        if x != y and fits:
            self.emit(str(self.rng.choice(["Add", "Mul"])), [x, y], np.broadcast_shapes(dims, others))


@pytest.mark.slow
def test_random_networks_are_right_or_refused(tmp_path: Path) -> None:
    right = 0
    for seed in range(80):
        drawn = Random(seed)
        proto = model(drawn.nodes, drawn.constants, shape=(1, 3, 5, 4))
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            graph = load(str(path))
        except Mnv3cError as error:
            assert "\n" not in str(error)
            continue
        x = drawn.rng.normal(0, 1, (5, 4, 3)).astype(np.float32)
        affine = graph.meta["input_affine"]
        assert isinstance(affine, dict)
        fed = (x * np.asarray(affine["scale"]) + np.asarray(affine["shift"])).astype(np.float32)
        got = run(graph, {"input": fed})[graph.outputs[0]]
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (want,) = session.run(None, {"x": x.transpose(2, 0, 1)[None]})
        # Outputs are (H, W, C), whichever order the model has.
        ways = [got.transpose(2, 0, 1), got]
        close = [
            np.allclose(w.ravel(), want.ravel(), rtol=1e-3, atol=1e-3 * np.abs(want).max()) for w in ways
        ]
        assert any(close), seed
        right += any(isinstance(n, f.Add | f.Multiply) and repeats(graph, n) for n in graph)
    assert right > 10


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
