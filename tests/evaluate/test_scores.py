"""Top-1, top-5 and agreement on numbers made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3c.errors import Mnv3cError
from mnv3c.evaluate import evaluate, score
from mnv3c.images import load_image, read_labels


def test_top1_top5_and_agreement() -> None:
    scores = np.asarray([[9, 8, 7, 6, 5, 4, 3], [0, 1, 2, 3, 4, 5, 6], [5, 5, 0, 0, 0, 0, 0]], np.float32)
    reference = np.roll(scores, 1, axis=1)
    reference[0] = scores[0]
    got = score(scores, np.asarray([0, 1, 1]), reference)
    assert got.top1 == pytest.approx(1 / 3)  # of two equal scores the first counts
    assert got.top5 == pytest.approx(2 / 3)
    assert got.agreement == pytest.approx(1 / 3)
    assert got.worst == ((1, 0, 2, 2),)


def test_background_class_shifts_the_labels() -> None:
    scores = np.zeros((1, 1001), np.float32)
    scores[0, 6] = 1
    assert score(scores, np.asarray([5])).top1 == 1
    assert score(scores[:, :1000], np.asarray([6])).top1 == 1


def test_worst_classes_are_numbered_as_the_labels() -> None:
    scores = np.zeros((3, 1001), np.float32)
    scores[[0, 1], 6] = 1  # class 5 of the labels
    scores[2, 0] = 1  # background
    assert score(scores, np.asarray([7, 7, 3])).worst == ((7, 5, 2, 2), (3, -1, 1, 1))


def test_label_outside_of_the_classes() -> None:
    with pytest.raises(Mnv3cError, match="10 classes"):
        score(np.zeros((1, 10)), np.asarray([10]))


def test_evaluate_runs_every_engine_on_every_image(tmp_path: Path) -> None:
    rows = ["file,label_0based"]
    for i in range(23):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i % 4}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    def modulo(images: np.ndarray) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[images[:, 0, 0, 0] % 4]

    engines = {"right": modulo, "wrong": lambda x: np.roll(modulo(x), 1, axis=1)}
    for workers in (1, 3):
        got = evaluate(
            engines, tmp_path, tmp_path / "labels.csv", (4, 4, 3), reference="right", workers=workers
        )
        assert got["right"].top1 == 1 and got["right"].images == 23 and got["right"].agreement is None
        assert got["wrong"].top1 == 0 and got["wrong"].agreement == 0


def test_crop_takes_the_centred_square(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png", (5, 5, 3), crop=True) == 200).all()
    whole = load_image(tmp_path / "a.png", (5, 5, 3), crop=False)
    assert whole[2, 2, 0] > 150 and whole[2, 0, 0] == 0


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "file,label_0based\nx.jpg,cat\n"])
def test_bad_labels(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(Mnv3cError, match=r"labels\.csv"):
        read_labels(path)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    with pytest.raises(Mnv3cError, match=r"broken\.jpg: cannot be read"):
        load_image(tmp_path / "broken.jpg", (4, 4, 3), crop=True)
