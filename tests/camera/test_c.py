"""The generated camera code as C: warnings, sanitizers over random geometry, the example program."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mnv3c.camera import FORMATS, random_frame
from mnv3c.reference import integer
from mnv3c.verification.frames import library_image
from tests.camera.networks import levels, library
from tests.codegen.host import COMPILERS, STRICT, run, sources

ROUNDS = 1500


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize(
    "format_", ["nv21", *(pytest.param(f, marks=pytest.mark.slow) for f in ("rgb", "bgra", "i420"))]
)
def test_sanitizers(tmp_path: Path, format_: str, cc: str) -> None:
    library(tmp_path / "lib", format_, ["ref"])
    f = FORMATS[format_]
    values = {"PLANES": len(f.planes), "PIXEL": f.planes[0], "PAIRS": f.planes[-1], "YUV": int(f.yuv)}
    flags = [f"-D{k}={v}" for k, v in {**values, "ROUNDS": ROUNDS}.items()]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "fuzz"
    fuzz = Path(__file__).with_name("fuzz.c")
    folder = tmp_path / "lib"
    run(cc, *STRICT, "-O1", "-g", *sanitize, *flags, "-I", folder, *sources(folder), fuzz, "-o", program)
    run(program)


@pytest.mark.parametrize(
    "dtype", ["int8", *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint8", "float32"))]
)
@pytest.mark.parametrize("cc", ["aarch64-linux-gnu-gcc", "clang"])
def test_vectors_without_a_warning(tmp_path: Path, cc: str, dtype: str) -> None:
    if shutil.which(cc) is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip(f"{cc}, or the headers for Arm, are not installed")
    target = ["--target=aarch64-linux-gnu"] if cc == "clang" else []
    for format_ in ("rgb", "nv12"):
        library(tmp_path / format_, format_, ["neon"], dtype)
        for source in sources(tmp_path / format_):
            run(cc, *target, *STRICT, "-O1", "-c", source, "-o", tmp_path / "object.o")


@pytest.mark.parametrize("format_", ["nv12", "i420", "rgba"])
def test_example(tmp_path: Path, format_: str) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path / "lib"
    _, graph = library(folder, format_, ["ref"])
    example, program = folder / "example" / "net_frames.c", tmp_path / "frames"
    run("gcc", *STRICT, "-O1", "-I", folder, *sources(folder), example, "-o", program)
    rng = np.random.default_rng(0)
    several = [random_frame(rng, format_, 51, 33, rotation=90, fit="crop", range_="full") for _ in range(3)]
    f, data, want = FORMATS[format_], b"", []
    for frame in several:
        image = library_image(frame, levels(graph), graph)
        want.append(int(integer.run(graph, {graph.inputs[0]: image})[graph.outputs[0]].argmax()))
        data += b"".join(p[:, : f.plane_bytes(i, 51)].tobytes() for i, p in enumerate(frame.planes))
    (tmp_path / "frames.bin").write_bytes(data)
    assert [int(n) for n in run(program, tmp_path / "frames.bin", 51, 33, 90).split()] == want
