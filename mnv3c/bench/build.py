"""Building what is counted: the library's objects, and a harness around them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from mnv3c.camera import FORMATS
from mnv3c.codegen.render import render
from mnv3c.errors import Mnv3cError
from mnv3c.runners.library import Library
from mnv3c.toolchain import Compiler, build_freestanding
from mnv3c.toolchain.compiler import run

OPTIMIZATION = ("-std=c11", "-O3")


@dataclass(frozen=True)
class Sizes:
    """Bytes that a library's objects put into a program, before the linker drops anything.

    Attributes:
        text: instructions.
        rodata: constants, weights among them.
        writable: ``.data`` and ``.bss``.
        unwind: tables for exceptions and debuggers (``.eh_frame``).
        int8_weights: of the network's convolutions, one byte a weight; what cannot be avoided.
    """

    text: int
    rodata: int
    writable: int
    unwind: int
    int8_weights: int

    @property
    def beyond_weights(self) -> int:
        """``.text`` and ``.rodata`` without the weights themselves."""
        return self.text + self.rodata - self.int8_weights


@dataclass(frozen=True)
class FrameShape:
    """A camera's frame to run instead of a tensor: pixels, and degrees."""

    width: int
    height: int
    rotation: int = 0


def harness(library: Library, path: str, frame: FrameShape | None = None) -> str:
    """C source of a program that runs ``path`` and marks its layers and parts."""
    tensors = [
        {
            "direction": d,
            "dtype": t.dtype,
            "ctype": _CTYPE[t.dtype],
            "elements": t.shape[0] * t.shape[1] * t.shape[2],
        }
        for d, several in (("input", library.inputs), ("output", library.outputs))
        for t in several
    ]
    return render(
        "bench/harness.c.j2",
        name=library.name,
        path=path,
        tensors=tensors,
        input_count=0 if frame else len(library.inputs),
        frame=_frame(library, frame) if frame else None,
    )


def _frame(library: Library, frame: FrameShape) -> dict[str, object]:
    described = library.manifest.get("camera")
    if described is None:
        raise Mnv3cError("the library was compiled without --camera", "--frame")
    f = FORMATS[described["format"]]
    planes = [
        {"stride": f.plane_bytes(i, frame.width), "rows": f.plane_rows(i, frame.height)}
        for i in range(len(f.planes))
    ]
    return {"planes": planes, "width": frame.width, "height": frame.height, "rotation": frame.rotation}


_CTYPE = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}


def objects(compiler: Compiler, library: Library, flags: Sequence[str], folder: Path) -> list[Path]:
    """Compile the library's sources into ``folder``.

    Raises:
        Mnv3cError: one does not compile.
    """

    def one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run(
            compiler,
            [*OPTIMIZATION, *flags, "-c", str(source), "-o", str(target)],
            f"compiling {source.name}",
        )
        return target

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(one, library.sources))


def executable(
    compiler: Compiler,
    library: Library,
    path: str,
    flags: Sequence[str],
    parts: Sequence[Path],
    folder: Path,
    frame: FrameShape | None = None,
) -> Path:
    """Link the harness with the library's objects, static, at a fixed address. Raises as ``objects``."""
    source = folder / "mnv3c_bench_harness.c"
    source.write_text(harness(library, path, frame))
    program = folder / f"bench_{path}"
    fixed = ("-static", "-fno-pie", "-no-pie")
    arguments = [*OPTIMIZATION, *flags, *fixed, f"-I{library.directory}", str(source), *map(str, parts)]
    run(compiler, [*arguments, "-o", str(program)], "linking the counted program")
    return program


def shared_object(
    compiler: Compiler,
    library: Library,
    path: str,
    flags: Sequence[str],
    folder: Path,
    frame: FrameShape | None = None,
) -> Path:
    """The same without a C library, for an emulator in this process. Raises as ``objects``."""
    source = folder / "mnv3c_bench_harness.c"
    source.write_text(harness(library, path, frame))
    target = folder / f"bench_{path}.so"
    return build_freestanding(
        compiler, [*library.sources, source], target, flags=flags, include=[library.directory]
    )


def sizes(parts: Sequence[Path], int8_weights: int) -> Sizes:
    """Sum the sections of object files."""
    totals: dict[str, int] = {"text": 0, "rodata": 0, "writable": 0, "unwind": 0}
    for part in parts:
        with part.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                kind = _section_kind(section.name, section.header)
                if kind:
                    totals[kind] += section["sh_size"]
    return Sizes(**totals, int8_weights=int8_weights)


def _section_kind(name: str, header: Mapping[str, int]) -> str | None:
    write, allocate, execute = (bool(header["sh_flags"] & bit) for bit in (1, 2, 4))
    if not allocate or header["sh_type"] == "SHT_NOTE":
        return None
    if name.startswith(".eh_frame") or name.startswith(".ARM.ex"):
        return "unwind"
    if execute:
        return "text"
    # Constant pointers are writable for the loader alone, but cost memory all the same.
    return "writable" if write else "rodata"
