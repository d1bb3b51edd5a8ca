"""``TFLite_Detection_PostProcess``: imported files against LiteRT running them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mnv3c
from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized, tflite
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.quant import quantize
from mnv3c.reference import floating, integer
from tests.paths.harness import check_graph
from tests.tflite_detectors import CLASSES, EACH, detector
from tests.tflite_files import OPERATORS, File

litert = pytest.importorskip("ai_edge_litert.interpreter")


def run_litert(data: bytes, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Boxes, classes, scores of those that were found."""
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    boxes, classes, scores, count = (
        interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()
    )
    n = int(count[0])
    return boxes[0, :n], classes[0, :n], scores[0, :n]


def run_ours(graph: Graph, x: np.ndarray) -> tuple[np.ndarray, ...]:
    got = integer.run(graph, {graph.inputs[0]: x})
    n = int(got["count"].item())
    return got["boxes"][0, :n], got["classes"][0, :n, 0], got["scores"][0, :n, 0]


def random_input(dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 1, (16, 16, 3)).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, (16, 16, 3)).astype(dtype)


def save(file: File, folder: Path) -> str:
    path = folder / "detector.tflite"
    path.write_bytes(file.bytes())
    return str(path)


@pytest.mark.parametrize("scores_by", ["LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantised_files_find_what_litert_finds(
    dtype: str, background: bool, regular: bool, scores_by: str, tmp_path: Path
) -> None:
    options = {"use_regular_nms": regular, "nms_score_threshold": 0.3 if scores_by == "LOGISTIC" else 0.35}
    file = detector(dtype, options, background=background, scores_by=scores_by)
    graph = quantized.load(save(file, tmp_path))
    assert any(isinstance(n, q.QSoftmax) for n in graph) == (scores_by == "SOFTMAX")
    assert graph.outputs == ("boxes", "scores", "classes", "count")
    seen = 0
    for seed in range(8):
        x = random_input(dtype, seed)
        boxes, classes, scores = run_litert(file.bytes(), x)
        got = run_ours(graph, x)
        np.testing.assert_array_equal(got[2], scores)
        np.testing.assert_array_equal(got[1], classes)
        # One level of a code that a convolution rounds the other way moves a box by 0.0015.
        np.testing.assert_allclose(got[0], boxes, atol=1e-3 if scores_by == "LOGISTIC" else 2e-3)
        seen += len(scores)
    assert seen > 8


def test_a_softmax_in_float_is_read_in_sixteen_bits(tmp_path: Path) -> None:
    file = detector("int8", {"nms_score_threshold": 0.4}, scores_by="float SOFTMAX")
    graph = quantized.load(save(file, tmp_path))
    softmaxes = [n for n in graph if isinstance(n, q.QSoftmax)]
    assert [n.groups for n in softmaxes] == list(EACH)
    assert {graph.tensor(n.output).dtype for n in softmaxes} == {"int16"}
    seen = 0
    for seed in range(8):
        x = random_input("int8", seed)
        want, got = run_litert(file.bytes(), x), run_ours(graph, x)
        np.testing.assert_allclose(got[2], want[2], atol=2e-4)
        # Scores that 16 bits do not tell apart come in the order of the anchors.
        for box, kind, score in zip(*want, strict=True):
            same = (got[1] == kind) & (np.abs(got[2] - score) < 2e-4)
            assert np.abs(got[0][same] - box).max(axis=1).min() < 1e-3
        seen += len(want[2])
    assert seen > 8


def float_detections(graph: Graph, x: np.ndarray) -> list[tuple[float, int, np.ndarray]]:
    """(score, class, box) by the formulas in float, from the float graph and what its meta asks for."""
    wanted = graph.meta["detection"]
    settings, values = wanted["settings"], floating.run(graph, {graph.inputs[0]: x})
    codes = np.concatenate([values[n].reshape(-1, 4) for n in wanted["boxes"]])
    anchors = np.asarray(wanted["anchors"])
    scores = np.concatenate([values[n].ravel() for n in wanted["scores"]]).reshape(len(codes), -1)
    scores = 1 / (1 + np.exp(-scores)) if settings["logits"] else scores
    scores = scores[:, settings["first_class"] :]
    centre = codes[:, :2] / settings["scales"][0] * anchors[:, 2:] + anchors[:, :2]
    side = np.exp(codes[:, 2:] / settings["scales"][1]) * anchors[:, 2:]
    corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        inside = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
        return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)

    found: list[tuple[float, int, np.ndarray]] = []
    for c in range(scores.shape[1]):
        kept: list[int] = []
        for i in np.argsort(-scores[:, c], kind="stable"):
            if scores[i, c] >= settings["score"] and all(
                overlap(corners[i], corners[j]) <= settings["overlap"] for j in kept
            ):
                kept.append(int(i))
        found += [(float(scores[i, c]), c, corners[i]) for i in kept]
    return sorted(found, key=lambda item: -item[0])[: settings["most"]]


@pytest.mark.parametrize("scores_by", ["LOGISTIC", "SOFTMAX"])
def test_a_float_file_means_what_litert_computes(scores_by: str, tmp_path: Path) -> None:
    file = detector("float32", {"nms_score_threshold": 0.6}, scores_by=scores_by)
    graph = tflite.load_float(save(file, tmp_path))
    assert len(graph.outputs) == 4
    for seed in range(4):
        x = random_input("float32", seed)
        boxes, classes, scores = run_litert(file.bytes(), x)
        want = float_detections(graph, x)
        assert len(want) == len(scores) > 0
        np.testing.assert_allclose([s for s, _, _ in want], scores, atol=1e-5)
        assert [c for _, c, _ in want] == classes.tolist()
        np.testing.assert_allclose([b for _, _, b in want], boxes, atol=1e-5)


def test_a_float_file_quantised_here(tmp_path: Path) -> None:
    """The clearest box of every image is LiteRT's, in place and score."""
    file = detector("float32", {"nms_score_threshold": 0.6})
    graph = tflite.load_float(save(file, tmp_path))
    batch = [random_input("float32", seed) for seed in range(8)]
    integers = quantize(graph, batch, input_dtype="float32")
    for x in batch:
        boxes, classes, scores = run_litert(file.bytes(), x)
        got = run_ours(integers, x)
        assert scores[0] - got[2][0] < 0.02
        near = np.abs(boxes - got[0][0]).max(axis=1).argmin()
        np.testing.assert_allclose(got[0][0], boxes[near], atol=0.03)
        assert got[1][0] == classes[near] and abs(got[2][0] - scores[near]) < 0.02


@pytest.mark.parametrize(
    ("dtype", "scores_by"), [("uint8", "LOGISTIC"), ("uint8", "SOFTMAX"), ("int8", "float SOFTMAX")]
)
def test_the_library_is_bit_equal(dtype: str, scores_by: str, tmp_path: Path) -> None:
    graph = quantized.load(save(detector(dtype, scores_by=scores_by), tmp_path))
    check_graph(graph, "ref", tmp_path / "net", kind="host", runs=3)


def test_compiles_from_the_file(tmp_path: Path) -> None:
    file = save(detector("int8"), tmp_path)
    library = mnv3c.compile(file, "arm64", path="ref")
    names = [o["name"] for o in library.manifest["outputs"]]
    assert names == ["boxes", "scores", "classes", "count"]
    graph = quantized.load(file)
    (node,) = (n for n in graph.nodes if isinstance(n, q.QDetect))
    assert (node.most, node.first_class, node.classes, node.agnostic) == (10, 1, CLASSES + 1, False)


def _logistic_for_boxes(file: File) -> None:
    custom = file.operators[-1]
    t = file.tensors[custom.inputs[0]]
    out = file.tensor(t.shape, "uint8", 1 / 256, 0)
    file.operator("LOGISTIC", (custom.inputs[0],), out)
    file.operators.insert(-1, file.operators.pop())
    custom.inputs[0] = out


def _computed_anchors(file: File) -> None:
    file.operators[-1].inputs[2] = file.operators[-1].inputs[0]


def _other_output(file: File) -> None:
    file.outputs = [*file.outputs, file.operators[0].outputs[0]]


def _no_options(file: File) -> None:
    file.operators[-1].customOptions = []


def _damaged_options(file: File) -> None:
    file.operators[-1].customOptions = [255] * 20


def _second(file: File) -> None:
    file.operators.append(file.operators[-1])


def _softmax_over_all(file: File) -> None:
    """Over the channels of each map, before its reshape takes the anchors apart; no LOGISTIC."""
    kinds = [file.codes[o.opcodeIndex].builtinCode for o in file.operators]
    logistic = file.operators.pop(kinds.index(OPERATORS.LOGISTIC))
    file.operators[-1].inputs[1] = logistic.inputs[0]
    for reshape in [o for o, k in zip(file.operators, kinds, strict=False) if k == OPERATORS.RESHAPE][-2:]:
        out = file.tensor(file.tensors[reshape.inputs[0]].shape, "uint8", 1 / 256, 0)
        file.operator("SOFTMAX", (reshape.inputs[0],), out, "SoftmaxOptions", beta=1.0)
        file.operators.insert(file.operators.index(reshape), file.operators.pop())
        reshape.inputs[0] = out


ERRORS = {
    "several classes a box": {"use_regular_nms": False, "max_classes_per_detection": 2},
    "has 5 scores an anchor for 9 classes": {"num_classes": 9},
    "its option nms_iou_threshold is -1.0": {"nms_iou_threshold": -1.0},
    "has scales 10, 9, 5, 5": {"x_scale": 9.0},
    "its option max_detections is 0.0": {"max_detections": 0},
    "has a LOGISTIC for boxes": _logistic_for_boxes,
    "has a SOFTMAX over 15 values, not the 5 of an anchor": _softmax_over_all,
    "boxes, scores and anchors have shapes": _computed_anchors,
    "is an output beside the detection's": _other_output,
    "lacks its options": _no_options,
    "has damaged options": _damaged_options,
    "a second detection in one model": _second,
}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_beta(dtype: str, tmp_path: Path) -> None:
    path = save(detector(dtype, scores_by="SOFTMAX", beta=2.0), tmp_path)
    with pytest.raises(Mnv3cError, match=r"\(SOFTMAX\): has a beta of 2; 1 is supported"):
        (tflite.load_float if dtype == "float32" else quantized.load)(path)


@pytest.mark.parametrize("message", ERRORS)
def test_what_is_not_supported_is_named(message: str, tmp_path: Path) -> None:
    change = ERRORS[message]
    file = detector("uint8", change if isinstance(change, dict) else None)
    if callable(change):
        change(file)
    with pytest.raises(Mnv3cError) as caught:
        quantized.load(save(file, tmp_path))
    assert message in caught.value.message and "\n" not in str(caught.value)
    assert "detector.tflite" in caught.value.place
