"""The check itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnv3c import runners, toolchain
from mnv3c.errors import Mnv3cError
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer as reference
from mnv3c.runners import Library, RunFault
from mnv3c.runners.base import is_32_bit
from mnv3c.runners.process import qemu
from mnv3c.toolchain.compiler import host_is_arm
from mnv3c.verification.errors import float_errors
from mnv3c.verification.frames import FrameSample, check_frames, frame_samples
from mnv3c.verification.inputs import Sample, samples
from mnv3c.verification.report import PathReport, Report

Progress = Callable[[str, int, int], None]


def verify(
    directory: Path | str,
    *,
    paths: Sequence[str] | None = None,
    runner: str = "auto",
    core: str | None = None,
    cc: str | None = None,
    count: int = 4,
    images: Path | str | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Check a generated library against the networks saved in its folder.

    Every second run hands in a ``parallel_for`` that works the shares of each layer in reverse, so
    results that depend on the split show as differences.

    Args:
        paths: which to run; all by default.
        runner, core, cc: see ``runners.open_runner``.
        count: random inputs.
        images: folder of images to run as well.
        limit: of the images, take that many.
        progress: called with (step, done, total).

    Raises:
        Mnv3cError: no library there, its reference is damaged, or a path asked for cannot be run.
    """
    library = runners.open_library(directory)
    integer = serialize.load(library.directory / "reference" / "integer.npz")
    float_file = library.directory / "reference" / "float.npz"
    network = serialize.load(float_file) if float_file.is_file() else None
    _same_interface(library, integer)
    tell = progress or (lambda step, done, total: None)
    if images is not None and network is None:
        raise Mnv3cError("the library keeps no float network to make inputs from images", str(directory))
    if count < 1 and images is None:
        raise Mnv3cError("nothing to run", "--count")
    inputs = samples(integer, network, count, Path(images) if images else None, limit, seed)
    wanted: list[list[np.ndarray]] = []
    for i, sample in enumerate(inputs):
        tell("NumPy reference", i, len(inputs))
        values = reference.run(integer, dict(zip(integer.inputs, sample.library, strict=True)))
        wanted.append([values[o] for o in integer.outputs])
    frames = frame_samples(library, integer, network, seed)
    tell("NumPy reference", len(inputs), len(inputs))
    for path in paths or ():
        if path not in library.paths:
            raise Mnv3cError(f"{path!r} is not in the library (it has {', '.join(library.paths)})", "--path")
    reports = []
    for path in paths or library.paths:
        reason = "" if runner != "auto" or paths else _why_not(library, path)
        if reason:
            reports.append(PathReport(path, skipped=reason))
        else:
            reports.append(_check_path(library, path, runner, core, cc, inputs, wanted, frames, tell))
    tell("float network", 0, 1)
    errors = float_errors(integer, network, inputs, wanted) if network is not None else ()
    tell("float network", 1, 1)
    return Report(library.name, str(directory), tuple(library.changed_files()), tuple(reports), errors)


def _why_not(library: Library, path: str) -> str:
    """Why ``auto`` cannot run a path on this machine; empty if it can."""
    if path == "i8mm" and not host_is_arm() and qemu() is None:
        return "needs qemu-aarch64 (Debian: qemu-user): Unicorn has no i8mm"
    if is_32_bit(library, path) and qemu("armv7") is None:
        return "needs qemu-arm (Debian: qemu-user)"
    return ""


def _same_interface(library: Library, integer: Graph) -> None:
    for infos, names in ((library.inputs, integer.inputs), (library.outputs, integer.outputs)):
        described = [(t.name, t.shape, t.dtype) for t in infos]
        tensors = [integer.tensor(n) for n in names]
        if described != [(t.name, t.shape, t.dtype) for t in tensors]:
            raise Mnv3cError("manifest and reference describe different tensors", str(library.directory))


def _check_path(
    library: Library,
    path: str,
    kind: str,
    core: str | None,
    cc: str | None,
    inputs: Sequence[Sample],
    wanted: Sequence[Sequence[np.ndarray]],
    frames: Sequence[FrameSample],
    tell: Progress,
) -> PathReport:
    began = time.monotonic()
    tell(f"build {path}", 0, 1)
    runner = runners.open_runner(library, path, kind, core=core, cc=cc)
    tell(f"build {path}", 1, 1)
    arch = "host" if runner.name == "host" else "armv7" if is_32_bit(library, path) else "aarch64"
    compiler = toolchain.find(arch, cc)
    report = PathReport(path, runner.name, runner.where, f"{compiler.name}: {compiler.version}")
    problem, runs = "", 0
    try:
        for i, (sample, want) in enumerate(zip(inputs, wanted, strict=True)):
            tell(f"run {path}", i, len(inputs))
            runner.parallel = i % 2 == 1
            got = runner.run(sample.library)
            runs += 1
            problem = difference(library, want, got)
            if problem:
                problem = f"run {i} ({sample.source}): {problem}"
                break
        problem = problem or check_frames(library, runner, frames)
        tell(f"run {path}", len(inputs), len(inputs))
    except RunFault as fault:
        problem = str(fault)
    finally:
        runner.close()
    return replace(
        report,
        runs=runs,
        frames=len(frames),
        equal=not problem,
        problem=problem,
        stack_bytes=getattr(runner, "stack_bytes", None),
        seconds=round(time.monotonic() - began, 3),
    )


def difference(library: Library, want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> str:
    """The first output that differs, in words; empty if all are equal in every bit."""
    for info, w, g in zip(library.outputs, want, got, strict=True):
        bits = f"u{np.dtype(info.dtype).itemsize}"
        unequal = w.view(bits) != g.view(bits)
        if unequal.any():
            at = tuple(int(n) for n in np.argwhere(unequal)[0])
            return (
                f"output {info.name}: {int(unequal.sum())} of {unequal.size} values differ,"
                f" the first at {list(at)}: {g[at]} instead of {w[at]}"
            )
    return ""
