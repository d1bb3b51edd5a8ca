"""The armv7 path under qemu-arm: bit for bit, without warnings, and cheaper than the compiler's own code."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from mnv3c import targets, toolchain
from mnv3c.api import compile
from mnv3c.bench import qemu as counting
from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir.graph import Graph
from mnv3c.quant.quantizer import quantize
from mnv3c.runners import Library, open_library, open_runner
from mnv3c.runners.process import qemu
from mnv3c.verification.check import verify
from tests.paths.harness import check_graph, compile_graph
from tests.paths.neon import test_kernels as kernels
from tests.paths.real_threads import can_run, check_threads


def compiler(kind: str) -> toolchain.Compiler | None:
    """The first working compiler of that kind; zig, which builds a C library first, is tried last."""
    return next((c for c in toolchain.candidates("armv7") if c.kind == kind), None)


needs_qemu = pytest.mark.skipif(qemu("armv7") is None, reason="qemu-arm is not installed")
needs_compiler = pytest.mark.skipif(
    next(toolchain.candidates("armv7"), None) is None, reason="no compiler for 32-bit Arm"
)
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
MAKERS = [
    kernels.pointwise,
    kernels.epilogues,
    kernels.depthwise,
    kernels.windows,
    kernels.blocks,
    pytest.param(kernels.second_rounding, marks=pytest.mark.slow),
    kernels.wide_weights,
    pytest.param(kernels.stem, marks=pytest.mark.slow),
    kernels.tables,
    kernels.exact,
    kernels.doors,
]


@needs_qemu
@needs_compiler
@pytest.mark.parametrize("make", MAKERS)
def test_bit_equal(make: Callable[[], Graph], tmp_path: Path) -> None:
    check_graph(make(), "armv7", tmp_path / "library", parallel=True)


@pytest.mark.slow
@pytest.mark.skipif(not can_run("armv7"), reason="no cross compiler or no qemu-arm")
@pytest.mark.parametrize("make", [kernels.blocks, kernels.stem, kernels.tables])
def test_threads(make: Callable[[], Graph], tmp_path: Path) -> None:
    graph = make()
    library = compile_graph(graph, "armv7", tmp_path)
    check_threads(library, graph, tmp_path, "armv7")


@pytest.mark.slow
@needs_qemu
@needs_compiler
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=kernels.graphs())
def test_any_graph(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_graph(graph, "armv7", tmp_path_factory.mktemp("drawn") / "library", runs=1)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", ["gcc", "clang", "zig"])
@pytest.mark.parametrize("make", [kernels.epilogues, kernels.windows, kernels.blocks])
def test_no_warnings(make: Callable[[], Graph], kind: str, tmp_path: Path) -> None:
    found = compiler(kind)
    if found is None:
        pytest.skip(f"no {kind} for 32-bit Arm")
    compile_graph(make(), "armv7", tmp_path / "library")
    # GCC needs no flag: the file says itself what it is for.
    flags = () if kind == "gcc" else targets.get("armv7").flags[kind]
    for source in sorted((tmp_path / "library").glob("*.c")):
        argv = [*found.argv, *flags, *STRICT, "-c", str(source), "-o", str(tmp_path / "strict.o")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, f"{source.name}:\n{done.stderr}"


@needs_qemu
@needs_compiler
def test_verify_runs_a_library_for_the_target(tmp_path: Path) -> None:
    compile_graph(kernels.blocks(), "armv7", tmp_path / "library")
    report = verify(tmp_path / "library", count=2)
    assert [(p.path, p.equal, p.runner) for p in report.paths] == [("armv7", True, "qemu")]


def test_what_cannot_run_it_is_refused(tmp_path: Path) -> None:
    library = compile_graph(kernels.windows(), "armv7", tmp_path / "library")
    for kind in ("unicorn", "native"):
        with pytest.raises(Mnv3cError, match="32-bit Arm runs under qemu"):
            open_runner(library, "armv7", kind)
    with pytest.raises(Mnv3cError, match="64-bit mode"):
        open_runner(library, "armv7", core="cortex-a53")
    for target, path in (("armv7", "neon"), ("arm64", "armv7")):
        with pytest.raises(Mnv3cError, match=f"target {target} has no path {path}"):
            compile("mobilenet_v3_small", target, path=path)


MAIN = """
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
static uint8_t in[1 << 20], out[1 << 16], arena[8 << 20] __attribute__((aligned(64)));
long syscall(long number, ...);
int RUN(const void *inputs, const void *outputs, void *arena, const void *exec);
int main(void) {
  void *a = in, *b = out;
  (void)syscall(9001, 1L, 0L);
  const int status = RUN(&a, &b, arena, 0);
  (void)syscall(9001, 2L, 0L);
  return status;
}
"""


def instructions(library: Library, folder: Path) -> int:
    """Executed in one inference, built by gcc -O3 for ARMv7-A with NEON."""
    (folder / "main.c").write_text(MAIN)
    gcc = compiler("gcc")
    assert gcc is not None
    program = toolchain.build_executable(
        gcc,
        [*library.sources, folder / "main.c"],
        folder / "program",
        flags=[*targets.get("armv7").flags["gcc"], f"-DRUN={library.name}_run"],
    )
    return sum(
        length * entered
        for segment in counting.count(program, "cortex-a7", caches=False, emulator="qemu-arm")
        if segment.kind == 1
        for (_, length), entered in segment.blocks.items()
    )


@pytest.mark.slow
@needs_qemu
@pytest.mark.skipif(not shutil.which("arm-linux-gnueabihf-gcc"), reason="no arm-linux-gnueabihf-gcc")
@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler for the counting plugin")
def test_zoo_is_bit_equal_and_not_slower_than_vectorised_ref(tmp_path: Path) -> None:
    graph = quantize(load("mobilenet_v3_small"))
    library = check_graph(graph, "armv7", tmp_path / "armv7", runs=1)
    assert not library.manifest["programs"]["armv7"]["notes"]
    compile_graph(graph, "ref", tmp_path / "ref")
    ours = instructions(library, tmp_path)
    compilers = instructions(open_library(tmp_path / "ref"), tmp_path)
    assert ours < compilers / 4, (ours, compilers)
