"""Generated camera code, bit for bit against the reference: portable C here, vectors on emulated Arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c import runners
from mnv3c.camera import FITS, FORMATS, ROTATIONS, Frame, random_frame
from mnv3c.codegen.library import build_library
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import Runner
from mnv3c.runners.process import ProcessRunner, qemu
from mnv3c.verification.frames import library_image
from tests.camera.networks import HEIGHT, WIDTH, levels, library, network

# Around what the vector code tells apart: rows of fewer bytes than it loads, columns too far apart for it.
WIDTHS = (1, 2, 3, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 311, 500)


def frames(format_: str, seed: int, per_width: int) -> list[Frame]:
    """Of every width, with rotations, fits, ranges and strides in turn."""
    rng = np.random.default_rng(seed)
    result = []
    for i, side in enumerate(w for w in WIDTHS for _ in range(per_width)):
        other = int(rng.integers(1, 120))
        width, height = (side, other) if i % 3 else (other, side)
        turn, fit = ROTATIONS[int(rng.integers(4))], FITS[i % 3]
        result.append(random_frame(rng, format_, width, height, rotation=turn, fit=fit))
    return result


def check_images(runner: Runner, graph: Graph, several: list[Frame]) -> None:
    values = levels(graph)
    got = (
        runner.camera_images(several)
        if isinstance(runner, ProcessRunner)
        else [runner.camera_image(f) for f in several]
    )
    for frame, image in zip(several, got, strict=True):
        what = f"{frame.width}x{frame.height} {frame.rotation} {frame.fit} {frame.range} {frame.strides}"
        np.testing.assert_array_equal(image, library_image(frame, values, graph), err_msg=what)


@pytest.mark.parametrize("format_", list(FORMATS))
def test_portable(tmp_path: Path, format_: str) -> None:
    made, graph = library(tmp_path / "lib", format_, ["ref"])
    runner = runners.open_runner(made, "ref", "host")
    check_images(runner, graph, frames(format_, 1, 4))


@pytest.mark.parametrize(
    "format_", ["nv21", *(pytest.param(f, marks=pytest.mark.slow) for f in ("rgb", "bgra", "i420"))]
)
def test_vectors(tmp_path: Path, format_: str) -> None:
    """Planes lie against pages that cannot be read, at their end and at their start in turn."""
    made, graph = library(tmp_path / "lib", format_, ["neon"])
    runner = runners.open_runner(made, "neon", "unicorn")
    check_images(runner, graph, frames(format_, 2, 3))


@pytest.mark.slow
@pytest.mark.skipif(qemu("armv7") is None, reason="no qemu-arm")
def test_32_bits(tmp_path: Path) -> None:
    made, graph = library(tmp_path / "lib", "nv12", ["armv7"])
    runner = runners.open_runner(made, "armv7", "qemu")
    several = frames("nv12", 3, 1)
    check_images(runner, graph, several)
    check_runs(runner, graph, several[7:9])


def check_runs(runner: Runner, graph: Graph, several: list[Frame]) -> None:
    for i, frame in enumerate(several):
        image = library_image(frame, levels(graph), graph)
        want = integer.run(graph, {graph.inputs[0]: image})
        runner.parallel = i % 2 == 1
        (got,) = runner.run_camera(frame)
        np.testing.assert_array_equal(got, want[graph.outputs[0]])


@pytest.mark.parametrize(
    ("path", "dtype"),
    [
        ("ref", "int8"),
        ("neon", "uint8"),
        ("dotprod", "uint8"),
        *(
            pytest.param(path, dtype, marks=pytest.mark.slow)
            for path, dtype in (
                ("ref", "uint8"),
                ("ref", "float32"),
                ("neon", "int8"),
                ("neon", "float32"),
                ("dotprod", "int8"),
                ("i8mm", "int8"),
            )
        ),
    ],
)
def test_runs_are_those_of_the_image(tmp_path: Path, path: str, dtype: str) -> None:
    if path == "i8mm" and qemu() is None:
        pytest.skip("no qemu-aarch64")
    made, graph = library(tmp_path / "lib", "nv21", [path], dtype)
    runner = runners.open_runner(made, path, "host" if path == "ref" else "auto")
    rng = np.random.default_rng(4)
    several = [random_frame(rng, "nv21", w, h) for w, h in ((90, 71), (5, 9), (150, 40))]
    check_runs(runner, graph, several)
    check_images(runner, graph, several)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("path", ["neon", "dotprod", "i8mm"])
def test_the_first_layer_takes_rows_and_no_image_is_kept(tmp_path: Path, path: str, dtype: str) -> None:
    made, _ = library(tmp_path / "lib", "nv21", [path], dtype)
    regions = {m["region"]: m["bytes"] for m in made.manifest["programs"][path]["memory"]}
    assert "camera_image" not in regions
    plain = build_library(network(dtype), [path]).manifest["arena_bytes"]
    assert isinstance(plain, int)
    assert made.arena_bytes <= plain + -(-regions["camera_columns"] // 64) * 64
    assert regions["camera_columns"] < HEIGHT * WIDTH * 3


def test_manifest_says_what_the_camera_is(tmp_path: Path) -> None:
    made, _ = library(tmp_path / "lib", "i420", ["ref"])
    camera = made.manifest["camera"]
    assert camera["format"] == "i420" and [p["what"] for p in camera["planes"]] == ["Y", "U", "V"]
    assert [p["half"] for p in camera["planes"]] == [False, True, True]
    assert camera["fits"] == list(FITS) and camera["rotations"] == list(ROTATIONS)
    assert "net_camera.c" in made.manifest["files"]


def test_a_frame_of_another_format_is_refused(tmp_path: Path) -> None:
    made, _ = library(tmp_path / "lib", "nv12", ["ref"])
    runner = runners.open_runner(made, "ref", "host")
    with pytest.raises(Mnv3cError, match="takes nv12 frames, not nv21"):
        runner.run_camera(random_frame(np.random.default_rng(0), "nv21", 4, 4))
