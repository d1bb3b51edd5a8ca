"""A CMake project that compiles two networks while it is built and links both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnv3c.ir import serialize
from mnv3c.reference import integer
from mnv3c.runners.process import qemu

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CROSS = "aarch64-linux-gnu-gcc"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed"),
    pytest.mark.skipif(not (shutil.which("make") or shutil.which("ninja")), reason="neither make nor ninja"),
]


def run(*arguments: object) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=3600, env=env)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def configure(build: Path, *definitions: str) -> None:
    command = f"-DMNV3C_COMMAND={sys.executable};-m;mnv3c"
    run("cmake", "-S", HERE, "-B", build, command, "-DCMAKE_BUILD_TYPE=Release", *definitions)


def check_answers(build: Path, folder: Path, *prefix: str) -> None:
    """The program's output is what the NumPy reference computes from the graphs beside the C."""
    rng = np.random.default_rng(5)
    files, lines = [], []
    for name in ("small_net", "plain_net"):
        graph = serialize.load(build / f"{name}.mnv3c" / "reference" / "integer.npz")
        tensor = graph.tensor(graph.inputs[0])
        info = np.iinfo(tensor.dtype)
        x = rng.integers(info.min, info.max, tensor.shape, dtype=tensor.dtype, endpoint=True)
        files.append(folder / f"{name}.bin")
        files[-1].write_bytes(x.tobytes())
        y = integer.run(graph, {tensor.name: x})[graph.outputs[0]].ravel()
        lines.append(" ".join([name, *map(str, y.tolist())]))
    assert run(*prefix, build / "native_app", *files).splitlines() == lines * 2


def test_host_build_and_tracked_dependencies(tmp_path: Path) -> None:
    build, calibration = tmp_path / "build", tmp_path / "calibration.npy"
    rng = np.random.default_rng(1)
    np.save(calibration, rng.uniform(0, 1, (4, 32, 32, 3)).astype(np.float32))
    configure(build, f"-DNATIVE_APP_CALIBRATION={calibration}")
    assert "mnv3c: mobilenet_v3_small_0.35_32 for portable" in run("cmake", "--build", build)
    check_answers(build, tmp_path)
    # Nothing has changed: nothing is done.
    assert "mnv3c:" not in run("cmake", "--build", build)
    before = (build / "small_net.mnv3c" / "small_net_weights.c").read_bytes()
    np.save(calibration, rng.uniform(0, 0.5, (4, 32, 32, 3)).astype(np.float32))
    again = run("cmake", "--build", build)
    assert (
        "mnv3c: mobilenet_v3_small_0.35_32" in again and "mnv3c: mobilenet_v3_small_minimalistic" not in again
    )
    assert (build / "small_net.mnv3c" / "small_net_weights.c").read_bytes() != before
    check_answers(build, tmp_path)


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"{CROSS} is not installed")
@pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")
def test_cross_build_runs_on_emulated_arm(tmp_path: Path) -> None:
    build = tmp_path / "build"
    configure(
        build,
        "-DNATIVE_APP_TARGET=arm64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={CROSS}",
        "-DNATIVE_APP_CXX=OFF",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    run("cmake", "--build", build)
    for cpu in ("cortex-a53", "cortex-a76"):
        check_answers(build, tmp_path, str(qemu()), "-cpu", cpu)


def test_mistakes_are_clear_when_configuring(tmp_path: Path) -> None:
    for arguments, message in (
        ("x MODEL m TARGET cortex-a75", "unknown target 'cortex-a75'"),
        ("x MODEL m COLOUR red", "unknown arguments: COLOUR;red"),
        ("x TARGET arm64", "MODEL is missing"),
        ("x MODEL m PATH avx", "unknown path 'avx'"),
    ):
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        (project / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES C)\n"
            f"include({ROOT}/cmake/mnv3c.cmake)\nmnv3c_add_library({arguments})\n"
        )
        command = [
            *("cmake", "-S", project, "-B", tmp_path / "b"),
            f"-DMNV3C_COMMAND={sys.executable};-m;mnv3c",
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env)
        assert done.returncode != 0 and message in " ".join(done.stderr.split()), done.stderr
