"""Build a library, run it under an emulator, and collect what each layer executed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3c import targets
from mnv3c.bench import build, qemu, segments, unicorn_counter
from mnv3c.bench.code import Block, Code, basic_blocks, instruction_counts, read
from mnv3c.bench.segments import Memory, Segment
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.ir import int_ops as q
from mnv3c.ir import serialize
from mnv3c.runners.base import is_32_bit
from mnv3c.runners.library import Library
from mnv3c.targets import Target
from mnv3c.toolchain import Compiler, find

Progress = Callable[[str, int, int], None]  # step, done, total


def silent(step: str, done: int, total: int) -> None:
    """A progress callback that tells nobody."""


_LEAST_CORE = {"ref": "cortex-a53", "neon": "cortex-a53", "dotprod": "cortex-a55", "i8mm": "cortex-a510"}


@dataclass(frozen=True, eq=False)
class Region:
    """What a stretch of the run executed, the harness left out.

    Attributes:
        counts: executions of each word of the code, int64.
        memory: ``None`` where the caches were not simulated.
    """

    counts: np.ndarray
    memory: Memory | None

    @property
    def instructions(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class Measurement:
    """One path of one library, counted in the steady state (the second run and later ones).

    Attributes:
        counter: ``qemu 7.2.22`` or ``unicorn 2.1.4``.
        missing: what could not be measured, each with the reason.
        whole: a run without callbacks.
        layers: the layers of another run, in order; ``whole`` has the calls between them in addition.
        parts: of each layer, what its shares executed when the work was split.
        stack_bytes: the most that a run touched.
    """

    library: Library
    path: str
    core: Target
    compiler: Compiler
    flags: tuple[str, ...]
    counter: str
    missing: tuple[str, ...]
    code: Code
    blocks: tuple[Block, ...]
    whole: Region
    layers: tuple[Region, ...]
    parts: tuple[tuple[Region, ...], ...]
    stack_bytes: int
    sizes: build.Sizes


def choose_path(library: Library, path: str | None, core: Target | None) -> str:
    """The asked path, else the best one of the library that the core can run.

    Raises:
        Mnv3cError: the library has no such path, or the core cannot run it.
    """
    usable = [p for p in library.paths if core is None or p in core.paths]
    if path is not None:
        if path not in library.paths:
            raise Mnv3cError(
                f"the library has no path {path!r} (it has: {', '.join(library.paths)})", "--path"
            )
        if path not in usable and core is not None:
            raise Mnv3cError(f"{core.name} cannot run the path {path}", "--cpu")
        return path
    if not usable:
        name = core.name if core else "this"
        raise Mnv3cError(f"{name} can run none of the library's paths ({', '.join(library.paths)})", "--cpu")
    return usable[0]


def choose_core(library: Library, path: str | None, name: str | None) -> Target:
    """The asked core, else the one that the library was made for, else the least that runs the path.

    Raises:
        Mnv3cError: no such core.
    """
    if name is not None:
        try:
            core = targets.get(name)
        except Mnv3cError as error:
            raise Mnv3cError(error.message, "--cpu") from None
        if core.core is None:
            raise Mnv3cError(f"{core.name} is a platform; cycles are those of a core", "--cpu")
        return core
    if library.target in targets.names() and targets.get(library.target).core is not None:
        return targets.get(library.target)
    return targets.get(least_core(path or library.paths[0]))


def least_core(path: str) -> str:
    """The least core that has a path's instructions."""
    return _LEAST_CORE.get(path, "cortex-a53")


def measure(
    library: Library,
    *,
    path: str | None = None,
    cpu: str | None = None,
    cc: str | None = None,
    caches: bool = True,
    frame: build.FrameShape | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Count one path of ``library``.

    Args:
        cpu: a core of ``targets/``; its compiler flags are used.
        cc: compiler command.
        caches: simulate them (with qemu alone).
        frame: run a camera's frame of that size instead of a tensor.
        progress: called with (step, done, total).

    Raises:
        Mnv3cError: bad choice, or no compiler or emulator for it.
        CheckFailed: the library failed when it ran.
    """
    core = choose_core(library, path, cpu)
    path = choose_path(library, path, core)
    if is_32_bit(library, path):
        raise Mnv3cError("instructions are counted and priced for 64-bit Arm alone", f"path {path}")
    compiler = find("aarch64", cc)
    flags = core.flags.get(compiler.kind, ())
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mnv3c-bench-") as folder:
        progress("compile the library", 0, 1)
        parts = build.objects(compiler, library, flags, Path(folder))
        sizes = build.sizes(parts, int8_weights(library))
        progress("compile the library", 1, 1)
        progress("run and count", 0, 1)
        version = qemu.available()
        if version is not None:
            program = build.executable(compiler, library, path, flags, parts, Path(folder), frame)
            found = qemu.count(program, core.qemu_cpu, caches=caches)
            counter, code = f"qemu {version}", read(program.read_bytes())
        else:
            missing.append("line fills: qemu-aarch64 is not installed")
            program = build.shared_object(compiler, library, path, flags, Path(folder), frame)
            counter, code, found = unicorn_counter.count(program, path, core)
    progress("run and count", 1, 1)
    return _collect(library, path, core, compiler, flags, counter, tuple(missing), code, found, sizes)


def int8_weights(library: Library) -> int:
    """Weights of the library's network, from the reference graph beside it; one byte each.

    Raises:
        Mnv3cError: the reference is missing or damaged.
    """
    try:
        graph = serialize.loads((library.directory / "reference" / "integer.npz").read_bytes())
    except OSError as error:
        raise Mnv3cError(
            f"cannot read: {error}", str(library.directory / "reference" / "integer.npz")
        ) from None
    return sum(int(n.weight.size) for n in graph.nodes if isinstance(n, q.QConv))


def _collect(
    library: Library,
    path: str,
    core: Target,
    compiler: Compiler,
    flags: tuple[str, ...],
    counter: str,
    missing: tuple[str, ...],
    code: Code,
    found: list[Segment],
    sizes: build.Sizes,
) -> Measurement:
    status = [s.argument for s in found if s.kind == segments.STATUS]
    if status != [0]:
        outcome = f"{library.name}_run returned {status[0]}" if status else "the run did not reach its end"
        raise CheckFailed(f"path {path} (number {PATH_IDS[path]}) on {core.name}: {outcome}")

    def region(segment: Segment) -> Region:
        return Region(instruction_counts(code, segment.blocks), segment.memory)

    whole = next(region(s) for s in found if s.kind == segments.RUN)
    # The run with callbacks comes first, then the one with parts: there, a layer holds parts or is whole.
    layer_segments = [s for s in found if s.kind == segments.LAYER]
    count = len(layer_segments) // 2
    layers = tuple(region(s) for s in layer_segments[:count])
    parts: list[list[Region]] = [[] for _ in layers]
    current = -1
    split = found.index(layer_segments[count]) if count else len(found)
    for s in found[split:]:
        if s.kind == segments.LAYER:
            current = s.argument
            parts[current] = []
            tail = region(s)
            if tail.instructions:
                parts[current].append(tail)
        elif s.kind == segments.PART:
            # What precedes the first part in the layer's own segment is the call of parallel_for.
            parts[current] = [*parts[current][1 if s.argument == 0 else 0 :], region(s)]
    stack = next(s.argument for s in found if s.kind == segments.STACK)
    return Measurement(
        library,
        path,
        core,
        compiler,
        flags,
        counter,
        missing,
        code,
        tuple(basic_blocks(code, whole.counts)),
        whole,
        layers,
        tuple(tuple(p) for p in parts),
        stack,
        sizes,
    )
