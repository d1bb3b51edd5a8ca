"""The generated camera code as C: warnings, and sanitizers over random geometry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnv3c.camera import FORMATS
from tests.camera.networks import library
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
