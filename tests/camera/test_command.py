"""``--camera`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mnv3c
from mnv3c import runners
from mnv3c.camera import random_frame
from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization
from mnv3c.ir import serialize
from mnv3c.verification import verify
from mnv3c.verification.frames import library_image
from mnv3c.verification.inputs import byte_levels
from tests.command_line import call

NETWORK = ("mobilenet_v3_small_minimalistic_0.35_32", "--classes", "7", "--untuned")


def test_compile_and_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "library"
    given = (*NETWORK, "--target", "cortex-a76", "--camera", "nv21", "--name", "net", "-o", folder)
    code, out, err = call(capsys, "compile", *given)
    assert code == 0 and "nv21 frames" in out, err
    code, out, _ = call(capsys, "compile", *given, "--list-sources")
    assert code == 0 and sorted(out.split()) == [p.name for p in runners.open_library(folder).sources]
    code, out, err = call(capsys, "verify", folder, "--count", "1", "--json")
    assert code == 0, err
    (path,) = json.loads(out)["paths"]
    assert path["equal"] and path["frames"] > 8


def test_a_wrong_camera_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    mnv3c.compile(NETWORK[0], "portable", folder, classes=7, camera="rgb", name="net")
    source = folder / "net_camera.c"
    text = source.read_text()
    assert "<< 31)" in text
    source.write_text(text.replace("<< 31)", "<< 30)"))
    report = verify(folder, runner="host", count=1)
    assert not report.ok and "frame 0 (" in report.paths[0].problem and "image" in report.paths[0].problem


def test_levels_are_those_of_the_normalisation(tmp_path: Path) -> None:
    normalize = Normalization.from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    folder = tmp_path / "library"
    mnv3c.compile(NETWORK[0], "portable", folder, classes=7, camera="bgr", normalize=normalize)
    library = runners.open_library(folder)
    graph, network = (serialize.load(folder / "reference" / f"{n}.npz") for n in ("integer", "float"))
    frame = random_frame(np.random.default_rng(0), "bgr", 32, 32, rotation=0, fit="stretch")
    image = runners.open_runner(library, "ref", "host").camera_image(frame)
    np.testing.assert_array_equal(image, library_image(frame, byte_levels(graph, network, normalize), graph))
    # The library's integers stand for the normalised pixels, to half a step.
    pixels = frame.planes[0][:, : 3 * 32].reshape(32, 32, 3)[..., ::-1]
    info = library.inputs[0]
    real = info.scale[0] * (image.astype(np.float64) - info.zero_point[0])
    limit = info.scale[0] * 127
    wanted = np.clip(graph_normalization(network, normalize).apply(pixels), -limit, limit)
    assert np.abs(real - wanted).max() <= info.scale[0] * 0.51


def test_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = call(capsys, "compile", *NETWORK, "--camera", "jpeg", "-o", tmp_path / "x")
    assert code == 2 and "jpeg" in err
    with pytest.raises(Mnv3cError, match="--camera"):
        mnv3c.compile(NETWORK[0], "portable", camera="yuy2")
