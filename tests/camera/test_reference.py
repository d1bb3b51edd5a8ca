"""The integer arithmetic of camera frames against OpenCV and BT.601 in floating point."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.camera import FITS, FORMATS, ROTATIONS, Frame, from_rgb, random_frame
from mnv3c.reference import camera as reference

opencv = pytest.importorskip("tests.camera.opencv", reason="needs opencv-python-headless")


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("format_", list(FORMATS))
def test_within_a_level_of_opencv(format_: str, smooth: bool) -> None:
    rng = np.random.default_rng(5)
    sizes = [(1, 1), (2, 3), (61, 47), (640, 479), (35, 800), (96, 96)]
    sizes += [(int(rng.integers(1, 500)), int(rng.integers(1, 500))) for _ in range(6)]
    levels = []
    for i, (width, height) in enumerate(sizes):
        frame = random_frame(
            rng, format_, width, height, smooth=smooth, rotation=ROTATIONS[i % 4], fit=FITS[i % 3]
        )
        levels.append(opencv.differences(frame, 96, 80).ravel())
    every = np.concatenate(levels)
    assert (every <= 1).mean() >= 0.999
    assert (every == 0).mean() >= 0.95


def test_bytes_of_the_same_size_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    np.testing.assert_array_equal(reference.image(from_rgb(image), 31, 17), image)
    turned = reference.image(from_rgb(image, rotation=90), 17, 31)
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


@pytest.mark.parametrize(
    ("range_", "yuv", "rgb"),
    [
        ("full", (0, 128, 128), (0, 0, 0)),
        ("full", (255, 128, 128), (255, 255, 255)),
        ("full", (76, 85, 255), (254, 0, 0)),  # JFIF's red, rounded
        ("limited", (16, 128, 128), (0, 0, 0)),
        ("limited", (235, 128, 128), (255, 255, 255)),
        ("limited", (81, 90, 240), (254, 0, 0)),  # video's red, rounded
        ("limited", (255, 255, 255), (255, 125, 255)),  # beyond the range
    ],
)
def test_known_colours(range_: str, yuv: tuple[int, int, int], rgb: tuple[int, int, int]) -> None:
    planes = tuple(np.full((1, 1), v, np.uint8) for v in yuv)
    got = reference.image(Frame("i420", planes, 1, 1, range=range_), 2, 2)
    assert np.abs(got.astype(int) - rgb).max() <= 1 and (got == got[0, 0]).all()


def test_letterbox_and_crop() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    frame = Frame("rgb", (image.reshape(10, 60),), 20, 10, fit="letterbox", pad=(1, 2, 3))
    got = reference.image(frame, 8, 8)
    assert (got[:2] == (1, 2, 3)).all() and (got[6:] == (1, 2, 3)).all() and (got[2:6] == 200).all()
    image[:, :5], image[:, 15:] = 0, 0
    cropped = Frame("rgb", (image.reshape(10, 60),), 20, 10, fit="crop")
    assert (reference.image(cropped, 8, 8) == 200).all()
