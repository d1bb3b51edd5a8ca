"""Detection: onnxruntime's NonMaxSuppression, the formulas in float, and the C under sanitizers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.ir import int_ops as q
from mnv3c.ir.detection import Settings, attach, least_logit
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.ir.verify import verify
from mnv3c.reference import integer
from tests.codegen import host
from tests.graphs import random_inputs
from tests.paths.harness import check_graph

UNIT = 2.0**-11


def detector(
    maps: list[tuple[int, int]],
    each: int,
    classes: int,
    anchors: np.ndarray,
    settings: Settings,
    dtype: str = "int16",
    scale: float = UNIT,
) -> Graph:
    """A graph whose inputs are the head's maps, and whose outputs are what is detected."""
    tensors, boxes, scores = {}, [], []
    zero_point = (3,) if dtype == "int8" else (0,)
    for i, (height, width) in enumerate(maps):
        for names, label, channels in ((boxes, "box", 4), (scores, "score", classes)):
            name = f"{label}{i}"
            names.append(name)
            shape = (height, width, each * channels)
            tensors[name] = Tensor(name, shape, dtype, Quant((scale,), zero_point))
    order = (*boxes, *scores)
    wanted = {"boxes": boxes, "scores": scores, "anchors": anchors.tolist(), "settings": vars(settings)}
    graph = Graph("detector", (), tensors, order, order, {"detection": wanted})
    return verify(attach(graph))


def grid_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Anchors with corners on a grid of 64ths, which float32 holds exactly; some of them equal."""
    corners = rng.integers(0, 49, (count, 2))
    sides = rng.integers(1, 9, (count, 2)) * 2
    if count > 3:
        corners[1], sides[1] = corners[0], sides[0]
    return np.concatenate([corners + sides / 2, sides], axis=1) / 64


def suppress_by_onnxruntime(
    boxes: np.ndarray, scores: np.ndarray, most: int, overlap: float, least: float
) -> list[tuple[int, int]]:
    """(class, anchor) that remain, in onnxruntime's order."""
    node = helper.make_node("NonMaxSuppression", ["b", "s", "m", "o", "t"], ["y"])
    inputs = [
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, None, 4]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, None, None]),
        helper.make_tensor_value_info("m", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("o", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "nms", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if not hasattr(suppress_by_onnxruntime, "session"):
        suppress_by_onnxruntime.session = onnxruntime.InferenceSession(  # type: ignore[attr-defined]
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    feeds = {
        "b": boxes[None].astype(np.float32),
        "s": scores[None].astype(np.float32),
        "m": np.asarray([most], np.int64),
        "o": np.asarray([overlap], np.float32),
        "t": np.asarray([least], np.float32),
    }
    found = suppress_by_onnxruntime.session.run(None, feeds)[0]  # type: ignore[attr-defined]
    return [(int(c), int(a)) for _, c, a in found]


def check_case(seed: int) -> None:
    """One random case: few distinct scores (ties), few or no candidates, heavy overlap."""
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    anchors = grid_boxes(rng, count)
    if seed % 5 == 0:
        anchors[:] = anchors[0]
    levels = np.sort(rng.integers(-6000, 6000, 6))
    logits = rng.choice(levels, (count, classes)).astype(np.int16)
    if seed % 7 == 0:
        logits[:] = -30000
    overlap = float(rng.choice([0.25, 0.5, 0.75]))
    most = int(rng.integers(1, 12))
    settings = Settings((1.0, 1.0), 0, 0.5, overlap, most=200, most_a_class=most)
    graph = detector([(1, count)], 1, classes, anchors, settings)
    zeros = np.zeros((1, count, 4), np.int16)
    got = integer.run(graph, {"box0": zeros, "score0": logits.reshape(1, count, classes)})
    number = int(got["count"].item())
    centre, side = anchors[:, :2], anchors[:, 2:]
    corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    # A score counts from its least value on, in onnxruntime from above it.
    want = suppress_by_onnxruntime(corners, logits.T * UNIT, most, overlap, -0.5 * UNIT)
    order = sorted(want, key=lambda item: -int(logits[item[1], item[0]]))
    assert number == len(order)
    for n, (kind, anchor) in enumerate(order):
        assert got["classes"][0, n, 0] == kind
        np.testing.assert_array_equal(got["boxes"][0, n], corners[anchor].astype(np.float32))
        real = 1 / (1 + np.exp(-float(logits[anchor, kind]) * UNIT))
        assert abs(got["scores"][0, n, 0] - real) < 3e-4
    assert not got["boxes"][0, number:].any() and not got["scores"][0, number:].any()


@pytest.mark.parametrize("block", range(10))
def test_a_thousand_cases_agree_with_onnxruntime(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        check_case(seed)


def test_decoding_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    anchors = rng.uniform(0.1, 0.9, (12, 4))
    settings = Settings(score=0.5, overlap=1.0, most=12, first_class=0)
    graph = detector([(3, 4)], 1, 1, anchors, settings, scale=1e-3)
    codes = rng.integers(-6000, 6000, (3, 4, 4)).astype(np.int16)
    logits = (np.arange(12, 0, -1) * 200).reshape(3, 4, 1).astype(np.int16)
    got = integer.run(graph, {"box0": codes, "score0": logits})["boxes"][0]
    y, x, h, w = (codes.reshape(12, 4) * 1e-3 / np.asarray([10, 10, 5, 5])).T
    centre_y, centre_x = y * anchors[:, 2] + anchors[:, 0], x * anchors[:, 3] + anchors[:, 1]
    height, width = np.exp(h) * anchors[:, 2], np.exp(w) * anchors[:, 3]
    want = [centre_y - height / 2, centre_x - width / 2, centre_y + height / 2, centre_x + width / 2]
    np.testing.assert_allclose(got, np.stack(want, axis=1), atol=5e-4)


def random_detector(seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    maps = [(int(rng.integers(1, 5)), int(rng.integers(1, 5))) for _ in range(int(rng.integers(1, 4)))]
    each, classes = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    count = sum(h * w for h, w in maps) * each
    anchors = np.concatenate([rng.uniform(0, 1, (count, 2)), rng.uniform(0, 0.5, (count, 2))], axis=1)
    dtype = str(rng.choice(["int8", "int16"]))
    settings = Settings(
        first_class=int(rng.integers(0, classes)),
        score=float(rng.uniform(0.02, 0.6)),
        overlap=float(rng.uniform(0, 1)),
        most=int(rng.integers(1, 20)),
        most_a_class=int(rng.integers(1, 20)),
        agnostic=bool(seed % 2),
        x_first=seed % 3 == 0,
    )
    scale = 0.05 if dtype == "int8" else 5e-4
    return detector(maps, each, classes, anchors, settings, dtype, scale)


@pytest.mark.parametrize("seed", range(6))
def test_ref_is_bit_equal(seed: int, tmp_path: Path) -> None:
    check_graph(random_detector(seed), "ref", tmp_path / "net", kind="host", runs=6)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["dotprod", "neon", "i8mm"])
def test_other_paths_are_bit_equal(path: str, tmp_path: Path) -> None:
    check_graph(random_detector(9), path, tmp_path / "net")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("seed", [10, 11, 12])
def test_nothing_is_written_past_the_outputs(seed: int, tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers, with extreme and random codes."""
    graph = random_detector(seed)
    folder = tmp_path / "net"
    write_folder(folder, build_library(graph, ["ref"]).files)
    program = host.command_line("gcc", folder, tmp_path / "cli", "-fsanitize=address,undefined")
    for run in range(6):
        inputs = dict(random_inputs(graph, run))
        if run < 2:
            inputs = {k: np.full_like(v, np.iinfo(v.dtype).max if run else np.iinfo(v.dtype).min)
                      for k, v in inputs.items()}  # fmt: skip
        given, result = tmp_path / "in.bin", tmp_path / "out.bin"
        given.write_bytes(b"".join(inputs[name].tobytes() for name in graph.inputs))
        host.run(program, given, result)
        want = integer.run(graph, inputs)
        assert result.read_bytes() == b"".join(want[name].tobytes() for name in graph.outputs)


def test_least_logit() -> None:
    assert least_logit(0.5) == 0 and least_logit(0.75) == 2250
    node = random_detector(0).nodes[-1]
    assert isinstance(node, q.QDetect) and node.score_table[128] == 16384
