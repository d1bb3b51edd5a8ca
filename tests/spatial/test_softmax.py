"""Integer softmax by hand, against float, onnxruntime and LiteRT; every path; what the quantiser chooses."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph, Node, Quant, Tensor
from mnv3c.ir.softmax import MOST_CLASSES, softmax_node
from mnv3c.ir.verify import InvalidGraph, verify
from mnv3c.quant import batched, quantize
from mnv3c.reference import integer
from tests.paths.harness import check_graph
from tests.spatial.test_quant import Net, kinds, signal_to_noise
from tests.spatial.test_reference import run_float, run_integer, run_onnx
from tests.tflite_files import File

ALL = np.arange(-128, 128, dtype=np.int8)


def node(scale: float, classes: int = 4, **settings: object) -> q.QSoftmax:
    return softmax_node("s", "x", "y", scale=scale, classes=classes, **settings)  # type: ignore[arg-type]


def run(scale: float, x: np.ndarray, dtype: str = "int8", groups: int = 1, **settings: object) -> np.ndarray:
    classes = x.shape[2] // groups
    return run_integer(node(scale, classes, groups=groups, **settings), dtype, x.shape, x)


def exact(x: np.ndarray, scale: float, groups: int = 1) -> np.ndarray:
    """Softmax of the reals in float64."""
    runs = x.astype(np.float64).reshape(*x.shape[:-1], groups, -1) * scale
    e = np.exp(runs - runs.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).reshape(x.shape)


def test_by_hand() -> None:
    # exp(-1) and exp(-2) are 0.367879 and 0.135335; in units of 2**-22 that is 1542998.2 and 567637.3.
    x = np.asarray([[[3, 1, -1]]], np.int8)
    made = node(0.5, 3)
    assert [made.table[d] for d in (0, 2, 4)] == [1 << 22, 1542998, 567637]
    assert [made.scaled[d] for d in (0, 2, 4)] == [1 << 30, 395007542, 145315154]
    total = (1 << 22) + 1542998 + 567637
    scaled = (1 << 30, 395007542, 145315154)
    want = [floor(Fraction(a, total) + Fraction(1, 2)) - 128 for a in scaled]
    assert want == [42, -65, -105]
    assert run(0.5, x)[0, 0].tolist() == want


def test_alike_and_alone() -> None:
    for count, level in ((2, 128), (3, 85), (256, 1), (512, 1), (513, 0)):
        assert (run(0.1, np.full((1, 1, count), -7, np.int8)) == level - 128).all()
    # A single channel is one, which 8 bits end just below.
    assert (run(0.1, ALL.reshape(16, 16, 1)) == 127).all()
    assert (run(0.1, ALL.reshape(16, 16, 1), "int16", output_scale=2.0**-15, offset=0) == 32767).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 0.004, 0.02, 0.1, 0.37, 2.0, 60.0, 1e30])
@pytest.mark.parametrize("count", [1, 2, 7, 21, 91, 1001])
def test_within_a_level_of_float(scale: float, count: int) -> None:
    rng = np.random.default_rng(count)
    spread = rng.uniform(1, 120, (9, 11, 1))
    x = np.clip(rng.normal(0, spread, (9, 11, count)).round(), -128, 127).astype(np.int8)
    real = exact(x, scale)
    got = run(scale, x).astype(int) + 128
    assert np.abs(got - np.clip(np.rint(real * 256), 0, 255)).max() <= 1
    wide = run(scale, x, "int16", output_scale=2.0**-15, offset=0)
    assert np.abs(wide - real * 2**15).max() < 2 + count / 16


def test_what_a_small_table_entry_loses() -> None:
    """The worst there is: all channels but one just below what the table shows."""
    scale = -np.log(0.499 * 2.0**-19)
    x = np.full((1, 1, MOST_CLASSES), -1, np.int8)
    x[0, 0, 5] = 0
    wide = run(scale, x, "int16", output_scale=2.0**-15, offset=0)
    assert 120 < int(wide[0, 0, 5]) - 2**15 * exact(x, scale)[0, 0, 5] < 128  # a level of 8 bits


@pytest.mark.parametrize("levels", [0.01, 1.0, 85.0, 127.5, 255.0, 300.0, 5e4, 2.0**16])
def test_other_output_scales(levels: float) -> None:
    x = np.random.default_rng(3).integers(-128, 128, (5, 6, 9)).astype(np.int8)
    got = run(0.05, x, output_scale=1 / levels, offset=-100)
    want = np.clip(exact(x, 0.05) * levels - 100, -128, 127)
    assert np.abs(got - want).max() < 0.5 + levels / 2**13
    with pytest.raises(Mnv3cError, match="s: softmax to a scale"):
        node(0.1, output_scale=1e-5)


def test_runs_of_channels() -> None:
    x = np.random.default_rng(1).integers(-128, 128, (4, 3, 15)).astype(np.int8)
    together = run(0.1, x, groups=3)
    for i in range(0, 15, 5):
        np.testing.assert_array_equal(together[..., i : i + 5], run(0.1, x[..., i : i + 5]))


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_float_graph_is_onnxruntimes(groups: int) -> None:
    x = np.random.default_rng(0).normal(0, 9, (3, 4, 10)).astype(np.float32)
    parts = np.split(x, groups, axis=2)
    want = np.concatenate([run_onnx("Softmax", part, axis=1) for part in parts], axis=2)
    got = run_float(f.Softmax("s", ("x",), ("y",), groups), x, (3, 4, 10))
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("scale", [0.001, 0.03, 0.11, 0.9])
@pytest.mark.parametrize("count", [2, 5, 21, 300])
def test_within_a_level_of_litert(scale: float, count: int) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file = File()
    x = file.tensor((1, 8, 9, count), "int8", scale, 17)
    y = file.tensor((1, 8, 9, count), "int8", 2.0**-8, -128)
    file.inputs, file.outputs = [x], [y]
    file.operator("SOFTMAX", (x,), y, "SoftmaxOptions", 2, beta=1.0)
    model = interpreter.Interpreter(model_content=file.bytes())
    model.allocate_tensors()
    rng = np.random.default_rng(count)
    data = np.clip(rng.normal(0, rng.uniform(1, 99, (8, 9, 1)), (8, 9, count)), -128, 127).astype(np.int8)
    model.set_tensor(model.get_input_details()[0]["index"], data[None])
    model.invoke()
    want = model.get_tensor(model.get_output_details()[0]["index"])[0]
    got = run(float(np.float32(scale)), data)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert (got == want).mean() > 0.99


BAD: list[dict[str, object]] = [
    {"table": (1 << 19,) * 255},
    {"table": (0,) * 256},
    {"table": (1 << 19, *range(255))},
    {"table": (1 << 30,) * 256},
    {"scaled": ((1 << 30) + 1,) * 256},
    {"scaled": (-1,) * 256},
    {"offset": 128},
    {"groups": 0},
    {"groups": 3},
]


@pytest.mark.parametrize("change", BAD, ids=lambda c: "-".join(c))
def test_what_no_kernel_could_compute_is_refused(change: dict[str, object]) -> None:
    good = vars(node(0.1))
    run_integer(q.QSoftmax(**good), "int8", (1, 1, 4), np.zeros((1, 1, 4), np.int8))
    with pytest.raises(InvalidGraph):
        run_integer(q.QSoftmax(**(good | change)), "int8", (1, 1, 4), np.zeros((1, 1, 4), np.int8))


def softmaxes() -> Graph:
    """One of each: odd counts, a vector, one channel, runs, extreme scales, an output of 16 bits."""
    cases: list[tuple[tuple[int, int, int], float, dict[str, object]]] = [
        ((5, 3, 7), 0.1, {}),
        ((1, 1, 33), 0.05, {}),
        ((9, 2, 1), 0.1, {}),
        ((3, 5, 15), 0.2, {"groups": 5}),
        ((2, 2, 19), 1e-12, {}),
        ((2, 2, 19), 1e12, {"offset": 0}),
        ((4, 4, 6), 0.3, {"groups": 2, "output_scale": 2.0**-15, "offset": 0}),
        ((2, 3, 5), 0.3, {"output_scale": 1 / 99.5, "offset": 27}),
        ((3, 1, 4), 0.3, {"offset": 127}),
        ((3, 1, 4), 0.3, {"output_scale": 40.0}),
    ]
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for i, (shape, scale, settings) in enumerate(cases):
        dtype = "int16" if settings.get("output_scale") == 2.0**-15 else "int8"
        tensors[f"x{i}"] = Tensor(f"x{i}", shape, "int8", Quant((0.1,), (5,)))
        tensors[f"y{i}"] = Tensor(f"y{i}", shape, dtype, Quant((0.1,), (0,)))
        classes = shape[2] // int(str(settings.get("groups", 1)))
        made = softmax_node(f"s{i}", f"x{i}", f"y{i}", scale=scale, classes=classes, **settings)  # type: ignore[arg-type]
        nodes.append(made)
    names = range(len(cases))
    return verify(
        Graph("net", tuple(nodes), tensors, tuple(f"x{i}" for i in names), tuple(f"y{i}" for i in names))
    )


@pytest.mark.parametrize("path", ["ref", "dotprod", "neon", "i8mm"])
def test_every_path_is_bit_equal(path: str, tmp_path: Path) -> None:
    check_graph(softmaxes(), path, tmp_path / "net", parallel=path == "ref")


def test_survives_a_file() -> None:
    graph = softmaxes()
    back = serialize.loads(serialize.dumps(graph))
    assert back.nodes == graph.nodes and back.tensors == graph.tensors


# ---- the quantiser ----


def test_attention_over_a_map() -> None:
    """A softmax of one convolution times another, then a convolution that reads it."""
    net = Net(6, 7, 5)
    share = net.emit(f.Softmax, (net.conv("x", 9),), (6, 7, 9))
    product = net.emit(f.Multiply, (net.act(net.conv("x", 9)), share), (6, 7, 9))
    quantized, decibels = signal_to_noise(net.finish(net.conv(product, 4)))
    assert {q.QSoftmax, q.QMultiply} <= kinds(quantized) and decibels > 27
    assert quantized.tensor(share).quant == Quant((2.0**-8,), (-128,))


def test_a_softmax_that_gates_channels_has_sixteen_bits() -> None:
    net = Net(6, 7, 5)
    pooled = net.emit(f.GlobalAveragePool, ("x",), (1, 1, 5))
    share = net.emit(f.Softmax, (net.conv(pooled, 5),), (1, 1, 5))
    quantized, decibels = signal_to_noise(net.finish(net.emit(f.Multiply, ("x", share), (6, 7, 5))))
    assert {q.QSoftmax, q.QGate} <= kinds(quantized) and decibels > 27
    assert quantized.tensor(share).dtype == "int16"


def test_enlarged_shares_stay_in_sixteen_bits() -> None:
    net = Net(6, 7, 5)
    big = net.resize(net.emit(f.Softmax, (net.conv("x", 4),), (6, 7, 4)), 12, 14)
    quantized, decibels = signal_to_noise(net.finish(big))
    assert q.QSoftmax in kinds(quantized) and decibels > 27
    share = next(n for n in quantized.nodes if isinstance(n, q.QSoftmax))
    assert quantized.tensor(share.output).dtype == "int16"


def test_an_output_that_is_read_again_is_computed() -> None:
    net = Net(6, 7, 5)
    share = net.emit(f.Softmax, (net.conv("x", 4),), (6, 7, 4))
    quantized, decibels = signal_to_noise(net.finish(share, net.conv(share, 3)))
    assert decibels > 27 and len(quantized.outputs) == 2 and quantized.meta["notes"] == []


def test_argmax_needs_no_softmax() -> None:
    net = Net(6, 7, 5)
    logits = net.conv("x", 4)
    share = net.emit(f.Softmax, (logits,), (6, 7, 4))
    graph = net.finish(net.emit(f.ArgMax, (share,), (6, 7, 1)))
    quantized = quantize(graph, [np.random.default_rng(0).normal(0, 1, (6, 7, 5)).astype(np.float32)])
    assert q.QSoftmax not in kinds(quantized) and quantized.tensor(logits).dtype == "int16"
    assert f"softmax {share} left out: the argmax of" in str(quantized.meta["notes"])


def test_too_many_channels() -> None:
    net = Net(1, 1, 2)
    share = net.emit(f.Softmax, (net.conv("x", MOST_CLASSES + 1),), (1, 1, MOST_CLASSES + 1))
    graph = net.finish(net.act(share, "hard_swish"))
    with pytest.raises(Mnv3cError, match=f"^{share}: softmax over 4097 channels"):
        quantize(graph, [np.ones((1, 1, 2), np.float32)])


def test_batches_are_as_single_images() -> None:
    """The executor for one image and that for batches, which calibration uses, agree."""
    graph = softmaxes()
    rng = np.random.default_rng(0)
    for each in graph.nodes:
        x = rng.integers(-128, 128, (3, *graph.tensor(each.inputs[0]).shape)).astype(np.int8)
        alone = graph.replace(nodes=(each,), inputs=each.inputs, outputs=each.outputs)
        want = [integer.run(alone, {each.inputs[0]: one})[each.output] for one in x]
        np.testing.assert_array_equal(batched.integer_node(alone, each, [x]), want)
