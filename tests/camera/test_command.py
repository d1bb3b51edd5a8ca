"""``--camera`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv3c
from mnv3c import runners
from mnv3c.bench.build import FrameShape
from mnv3c.bench.measure import measure
from mnv3c.camera import FORMATS, from_rgb, random_frame
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization
from mnv3c.ir import serialize
from mnv3c.reference import camera as reference
from mnv3c.reference import integer
from mnv3c.verification import verify
from mnv3c.verification.frames import library_image
from mnv3c.verification.inputs import byte_levels
from tests.camera.networks import library, network
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


@pytest.mark.slow
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
    opened = runners.open_library(folder)
    graph, real_network = (serialize.load(folder / "reference" / f"{n}.npz") for n in ("integer", "float"))
    frame = random_frame(np.random.default_rng(0), "bgr", 32, 32, rotation=0, fit="stretch")
    image = runners.open_runner(opened, "ref", "host").camera_image(frame)
    np.testing.assert_array_equal(
        image, library_image(frame, byte_levels(graph, real_network, normalize), graph)
    )
    # The library's integers stand for the normalised pixels, to half a step.
    pixels = frame.planes[0][:, : 3 * 32].reshape(32, 32, 3)[..., ::-1]
    info = opened.inputs[0]
    real = info.scale[0] * (image.astype(np.float64) - info.zero_point[0])
    limit = info.scale[0] * 127
    wanted = np.clip(graph_normalization(real_network, normalize).apply(pixels), -limit, limit)
    assert np.abs(real - wanted).max() <= info.scale[0] * 0.51


@pytest.mark.slow
def test_run_shows_images_to_the_camera(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, photo = tmp_path / "library", tmp_path / "photo.png"
    mnv3c.compile(NETWORK[0], "portable", folder, classes=7, camera="nv12")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    code, out, err = call(capsys, "run", folder, photo, "--fit", "letterbox", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert "nv12 frames" in answer["where"]
    graph, real_network = (serialize.load(folder / "reference" / f"{n}.npz") for n in ("integer", "float"))
    frame = from_rgb(pixels, "nv12", fit="letterbox")
    image = library_image(frame, byte_levels(graph, real_network), graph)
    scores = integer.run(graph, {graph.inputs[0]: image})[graph.outputs[0]].ravel()
    assert answer["answers"][0]["best"][0]["class"] == int(scores.argmax())
    code, _, err = call(capsys, "run", *NETWORK[:3], photo, "--fit", "crop")
    assert code == 2 and "--camera" in err


def test_a_frame_of_an_image_is_that_image() -> None:
    # Slow colours: chroma of 2x2 pixels is that of each.
    slope = np.add.outer(np.arange(40), np.arange(51))
    image = np.stack([slope, 200 - slope, 60 + slope], -1).astype(np.uint8)
    for format_ in FORMATS:
        got = reference.image(from_rgb(image, format_), 40, 51)
        assert np.abs(got.astype(int) - image).max() <= (4 if FORMATS[format_].yuv else 0)


def test_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = call(capsys, "compile", *NETWORK, "--camera", "jpeg", "-o", tmp_path / "x")
    assert code == 2 and "jpeg" in err
    with pytest.raises(Mnv3cError, match="--camera"):
        mnv3c.compile(NETWORK[0], "portable", camera="yuy2")


@pytest.mark.slow
def test_bench_counts_frames(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made, _ = library(tmp_path / "lib", "nv21", ["neon"])
    plain, small, turned = (
        measure(made, path="neon", caches=False, frame=frame).whole.instructions
        for frame in (None, FrameShape(100, 80), FrameShape(100, 80, 90))
    )
    assert plain < small < turned
    code, _, err = call(capsys, "bench", made.directory, "--frame", "100x80:45")
    assert code == 2 and "--frame" in err
    write_folder(tmp_path / "plain", build_library(network(), ["neon"]).files)
    code, _, err = call(capsys, "bench", tmp_path / "plain", "--frame", "100x80")
    assert code == 2 and "without --camera" in err
