"""``mnv3c run``: best classes, masks, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv3c
from mnv3c.ir import serialize
from mnv3c.pictures import colours, draw_boxes, paint
from mnv3c.reference import integer
from tests.command_line import call

SMALL = ("mobilenet_v3_small_minimalistic_0.35_32", "--classes", "7")
MASKS = ("lraspp_mobilenet_v3_small_0.35_33x65", "--classes", "4")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "a photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_best_classes_have_names(capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"name{i}" for i in range(6)))
    code, out, err = call(capsys, "run", *SMALL, photo, "--names", names, "--json")
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    assert len(answer["best"]) == 5
    # Six names for seven classes: the first is background.
    assert all(b["name"] in ("background", f"name{b['class'] - 1}") for b in answer["best"])
    shares = [b["softmax"] for b in answer["best"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.0
    code, out, _ = call(capsys, "run", *SMALL, photo)
    assert code == 0 and "class" in out and "a photo.png" in out


def test_mask_is_the_librarys(capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    mnv3c.compile(MASKS[0], "portable", folder, classes=4, input_dtype="uint8")
    code, out, err = call(capsys, "run", folder, photo, "--out", tmp_path / "masks", "--json")
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    with Image.open(answer["mask"]) as opened:
        picture = np.asarray(opened)
    assert picture.shape == (33, 130, 3)
    graph = serialize.load(folder / "reference" / "integer.npz")
    with Image.open(photo) as opened:
        resized = np.asarray(opened.resize((65, 33), Image.Resampling.BILINEAR))
    want = integer.run(graph, {graph.inputs[0]: resized})[graph.outputs[0]][..., 0]
    np.testing.assert_array_equal(picture[:, :65], resized)
    np.testing.assert_array_equal(picture[:, 65:], paint(resized, want.astype(int), 4))
    assert sum(c["share"] for c in answer["classes"]) == pytest.approx(1.0)


def test_boxes_are_the_librarys(capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    mnv3c.compile("ssdlite_mobilenet_v3_small_0.35_32", "portable", folder, classes=2, input_dtype="uint8")
    code, out, err = call(capsys, "run", folder, photo, "--out", tmp_path / "boxes", "--json")
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    graph = serialize.load(folder / "reference" / "integer.npz")
    with Image.open(photo) as opened:
        resized = np.asarray(opened.resize((32, 32), Image.Resampling.BILINEAR))
    want = integer.run(graph, {graph.inputs[0]: resized})
    assert len(answer["boxes"]) == want["count"].item()
    for n, found in enumerate(answer["boxes"]):
        assert found["box"] == want["boxes"][0, n].tolist() and found["class"] == want["classes"][0, n, 0]
    with Image.open(answer["picture"]) as opened:
        assert opened.size == (64, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*SMALL, "missing.png"), "missing.png"),
        ((*SMALL, "IMAGE", "--names", "IMAGE"), "cannot be read"),
        ((*SMALL, "IMAGE", "--path", "ref"), "--path"),
        ((*SMALL, "IMAGE", "--emulate"), "compiled library"),
        (("nothing_of_the_sort", "IMAGE"), "not a zoo model"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], photo: Path, arguments: tuple[str, ...], says: str
) -> None:
    given = [str(photo) if a == "IMAGE" else a for a in arguments]
    code, _, err = call(capsys, "run", *given)
    assert code == 2 and says in err and "Traceback" not in err


def test_wrong_number_of_names(capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    code, _, err = call(capsys, "run", *SMALL, photo, "--names", names)
    assert code == 2 and "2 names for 7 classes" in err


def test_pictures() -> None:
    assert len({tuple(c) for c in colours(21)}) == 21
    image = np.full((20, 30, 3), 100, np.uint8)
    painted = paint(image, np.asarray([[0, 1], [2, 3]]), 4)
    assert len({tuple(p) for p in painted.reshape(-1, 3)}) == 4
    boxed = draw_boxes(image, np.asarray([[0.25, 0.2, 0.75, 0.8]]), [""], np.asarray([2]))
    changed = np.argwhere((boxed != image).any(axis=2))
    assert changed.min(axis=0).tolist() == [5, 6] and changed.max(axis=0).tolist() == [15, 24]
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 4)), [], np.zeros(0, int)), image)
