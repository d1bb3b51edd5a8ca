"""ONNX detectors with ``NonMaxSuppression``: what is imported against onnxruntime running the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import mnv3c
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.frontend.onnx_model.detection import split
from mnv3c.frontend.onnx_model.read import read_model
from mnv3c.frontend.onnx_model.rewrite import canonical
from mnv3c.quant import quantize
from mnv3c.reference import floating, integer
from mnv3c.verification import verify
from tests.frontend.onnx_detectors import CLASSES, SIZE, anchors, detector

FORMS = {
    "corners": {},
    "centres": {"form": "centres"},
    "xyxy": {"form": "xyxy"},
    "pixels": {"form": "xyxy", "pixels": True},
    "background": {"background": True},
    "softmax": {"form": "xyxy", "background": True, "scores_by": "Softmax"},
    "softmax of all": {"scores_by": "Softmax"},
}


def save(data: bytes, folder: Path) -> str:
    path = folder / "detector.onnx"
    path.write_bytes(data)
    return str(path)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (SIZE, SIZE, 3)).astype(np.float32)


def by_onnxruntime(data: bytes, x: np.ndarray) -> list[tuple[float, int, np.ndarray]]:
    """(score, class, box as the model has it), best first."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    boxes, scores, selected = session.run(None, {"image": x.transpose(2, 0, 1)[None]})
    found = [(float(scores[0, c, i]), int(c), boxes[0, i]) for _, c, i in selected]
    return sorted(found, key=lambda item: -item[0])


def as_the_library_has_it(box: np.ndarray, form: str, pixels: bool) -> np.ndarray:
    """Top, left, bottom, right as shares."""
    if form == "centres":
        x, y, width, height = box
        box = np.asarray([y - height / 2, x - width / 2, y + height / 2, x + width / 2])
    elif form == "xyxy":
        box = box[[1, 0, 3, 2]]
    return box / (SIZE if pixels else 1)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_read_off_the_model(name: str, tmp_path: Path) -> None:
    options = FORMS[name]
    graph = load(save(detector(**options), tmp_path))
    wanted = graph.meta["detection"]
    settings = wanted["settings"]
    x_first = options.get("form", "corners") != "corners"
    places = anchors()[:, [1, 0, 3, 2]] if x_first else anchors()
    np.testing.assert_allclose(wanted["anchors"], places, atol=1e-5)
    assert settings["scales"] == (10.0, 5.0) and settings["x_first"] == x_first
    assert settings["first_class"] == int(options.get("background", False))
    assert settings["logits"] == ("scores_by" not in options)
    assert (settings["most_a_class"], settings["most"]) == (20, 20 * CLASSES)
    values = floating.run(graph, {"input": image(0)})
    assert [values[n].shape[:2] for n in wanted["boxes"]] == [(8, 8), (4, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_finds_what_onnxruntime_finds(name: str, tmp_path: Path) -> None:
    """Every clear box of one is a box of the other, of the same class and near in place and score."""
    options = FORMS[name]
    data = detector(**options, most=6)
    graph = quantize(load(save(data, tmp_path)), [image(i) for i in range(4)], input_dtype="float32")
    assert graph.outputs == ("boxes", "scores", "classes", "count")
    matched = total = 0
    for seed in range(4):
        want = by_onnxruntime(data, image(seed))
        got = integer.run(graph, {"input": image(seed)})
        found = [
            (got["scores"][0, i, 0], got["classes"][0, i, 0], got["boxes"][0, i])
            for i in range(got["count"].item())
        ]
        assert abs(len(found) - len(want)) <= 3
        for score, kind, box in want:
            box = as_the_library_has_it(box, options.get("form", "corners"), options.get("pixels", False))
            near = [abs(s - score) < 0.05 and k == kind and np.abs(b - box).max() < 0.03 for s, k, b in found]
            matched += any(near)
            total += 1
    assert total > 40 and matched / total > 0.9


def test_a_library_of_two_maps_verifies(tmp_path: Path) -> None:
    """As many outputs as the float network has, which are not those of the float network."""
    model = save(detector("xyxy", background=True, scores_by="Softmax"), tmp_path)
    library = mnv3c.compile(model, "arm64", path="dotprod")
    write_folder(tmp_path / "library", library.files)
    report = verify(tmp_path / "library", count=2)
    assert report.ok and report.errors == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": True}, "lies between the head's maps and NonMaxSuppression"),
        ({"behind": "Neg"}, "is not supported behind NonMaxSuppression"),
        ({"most": 0}, "keeps no box"),
        ({"scores_by": ""}, "its scores are not the sigmoid of the head's maps"),
        ({"scores_by": "Softmax", "softmax_axis": 1}, "or the softmax over each anchor's classes"),
    ],
)
def test_what_is_not_supported_is_named(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError) as caught:
        load(save(detector(**options), tmp_path))
    assert message in caught.value.message and "\n" not in str(caught.value)
    assert "detector.onnx: node '" in caught.value.place


@pytest.mark.parametrize("form", ["corners", "centres", "xyxy"])
def test_damaged_detectors_give_one_line(form: str, tmp_path: Path) -> None:
    """Of the end of the model alone: ``tests/fuzz`` damages networks."""
    data, place = detector(form), tmp_path / "detector.onnx"
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 1 + seed % 8)] = rng.integers(0, 256)
        place.write_bytes(damaged.tobytes())
        try:
            canonical(split(read_model(place)[0], None)[0], None)
        except Mnv3cError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            told += 1
    assert told > 5
