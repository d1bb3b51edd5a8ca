"""Builds and runs ``shares.c``: a library with its work divided, under qemu."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from mnv3c.codegen.emit import PATH_IDS
from mnv3c.runners import Library
from mnv3c.runners.base import cpu_for

SOURCE = Path(__file__).with_name("shares.c")
CROSS = "aarch64-linux-gnu-gcc"
NEEDED = f"needs {CROSS} and qemu-aarch64"


def available() -> bool:
    return shutil.which(CROSS) is not None and shutil.which("qemu-aarch64") is not None


def build(library: Library, path: str, folder: Path) -> Path:
    """The program, with the flags of the least core that has ``path``."""
    program = folder / "shares"
    flags = cpu_for(library, path, None).flags["gcc"]
    argv = [CROSS, "-std=gnu11", "-O1", "-static", "-pthread", *flags, f"-DRUN={library.name}_run"]
    argv += [str(SOURCE), *(str(s) for s in library.sources), "-o", str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run(
    program: Path,
    library: Library,
    path: str,
    workers: int,
    seed: int,
    x: np.ndarray,
    folder: Path,
    core_of: str | None = None,
) -> tuple[bytes, int]:
    """The output, and how many layers were divided.

    Args:
        workers: threads; 0 checks that no two shares write a byte, -1 divides nothing.
        core_of: path whose least core is emulated, if not that of ``path``.
    """
    (folder / "in.bin").write_bytes(x.tobytes())
    cpu = cpu_for(library, core_of or path, None)
    sizes = [library.inputs[0].bytes, library.outputs[0].bytes, library.arena_bytes, PATH_IDS[path]]
    argv = ["qemu-aarch64", "-cpu", cpu.qemu, str(program), str(workers), str(seed)]
    argv += [str(folder / "in.bin"), str(folder / "out.bin"), *map(str, sizes)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, f"{path}, {workers} workers, seed {seed}: {done.stderr}"
    return (folder / "out.bin").read_bytes(), int(done.stdout)
