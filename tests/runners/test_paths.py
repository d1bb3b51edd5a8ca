"""A library of several paths: the CPU decides at run time, on every emulator alike."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mnv3c import targets, toolchain
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.reference import integer
from mnv3c.runners import RunFault, open_library
from mnv3c.runners.emulated import UnicornRunner
from mnv3c.runners.process import ProcessRunner, qemu
from tests.codegen.networks import classifier

PATHS = targets.get("arm64").paths
NEEDS = {"dotprod": "cortex-a76", "neon": "cortex-a53", "i8mm": "cortex-a510"}
needs_qemu = pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lib") / "net"
    write_folder(target, build_library(classifier(), PATHS, settings={"target": "arm64"}).files)
    return target


def sample() -> tuple[list[np.ndarray], np.ndarray]:
    graph = classifier()
    x = np.random.default_rng(2).integers(-128, 128, graph.tensor(graph.inputs[0]).shape).astype(np.int8)
    return [x], integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]


def expected_path(core: str) -> str:
    """The best path whose least core is not above this one."""
    order = ["cortex-a53", "cortex-a76", "cortex-a510"]
    return next(p for p in PATHS if order.index(NEEDS.get(p, "cortex-a53")) <= order.index(core))


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
def test_unicorn_picks_by_the_cpu(folder: Path, core: str) -> None:
    inputs, want = sample()
    runner = UnicornRunner(open_library(folder), "ref", core=core)
    assert np.array_equal(runner.run(inputs)[0], want)
    assert runner.best_path() == expected_path(core)


@needs_qemu
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76", "cortex-a510"])
def test_qemu_picks_by_the_cpu(folder: Path, core: str) -> None:
    inputs, want = sample()
    runner = ProcessRunner(open_library(folder), "ref", core=core)
    assert np.array_equal(runner.run(inputs)[0], want)
    assert runner.best_path() == expected_path(core)
    runner.close()


@pytest.mark.parametrize("path", [p for p in PATHS if p not in ("ref", "neon")])
def test_a_path_that_the_cpu_cannot_run_is_refused(folder: Path, path: str) -> None:
    if path == "i8mm":
        if qemu() is None:
            pytest.skip("qemu-aarch64 is not installed")
        runner: UnicornRunner | ProcessRunner = ProcessRunner(open_library(folder), path, core="cortex-a76")
    else:
        runner = UnicornRunner(open_library(folder), path, core="cortex-a53")
    with pytest.raises(RunFault, match="returned 3"):  # NET_ERROR_PATH
        runner.run(sample()[0])


@needs_qemu
def test_the_example_program(folder: Path, tmp_path: Path) -> None:
    """Files in, files out, with a choice of the path."""
    inputs, want = sample()
    source, sink = tmp_path / "in.bin", tmp_path / "out.bin"
    source.write_bytes(inputs[0].tobytes())
    program = toolchain.build_executable(
        toolchain.find("aarch64"),
        [*sorted(folder.glob("*.c")), folder / "example" / "net_cli.c"],
        tmp_path / "net_cli",
        include=[folder],
    )
    emulator = [shutil.which(str(qemu())) or "", "-cpu", "cortex-a76", str(program)]
    for arguments in ([], ["3"], ["1", "1"]):
        sink.unlink(missing_ok=True)
        subprocess.run([*emulator, str(source), str(sink), *arguments], check=True)
        assert np.array_equal(np.frombuffer(sink.read_bytes(), want.dtype), want.ravel())
    source.write_bytes(inputs[0].tobytes()[:-1])
    done = subprocess.run([*emulator, str(source), str(sink)], capture_output=True, text=True)
    assert done.returncode == 2 and "wrong number of bytes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("compiler", list(toolchain.candidates("aarch64")), ids=lambda c: c.name)
def test_every_compiler_gives_the_same_bits(folder: Path, compiler: toolchain.Compiler) -> None:
    inputs, want = sample()
    for path in PATHS:
        if path == "i8mm":
            continue  # Unicorn has none
        runner = UnicornRunner(open_library(folder), path, cc=" ".join(compiler.argv))
        assert np.array_equal(runner.run(inputs)[0], want), path
