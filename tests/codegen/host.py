"""Compiles emitted libraries with the host's own compilers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
COMPILERS = [
    pytest.param(cc, marks=pytest.mark.skipif(shutil.which(cc) is None, reason=f"{cc} is not installed"))
    for cc in ("gcc", "clang")
]


def run(*argv: object, cwd: Path | None = None) -> str:
    """Run a command; its output is in the assertion if it fails."""
    done = subprocess.run([str(a) for a in argv], cwd=cwd, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{' '.join(str(a) for a in argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.c"))


def command_line(cc: str, folder: Path, output: Path, *flags: str) -> Path:
    """Build the example program of a library."""
    run(cc, *STRICT, "-O2", *flags, "-I", folder, *sources(folder), *folder.glob("example/*.c"), "-o", output)
    return output
