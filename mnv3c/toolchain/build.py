"""Building the C of a generated library in the three forms that the runners load."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mnv3c.errors import Mnv3cError
from mnv3c.toolchain.compiler import Compiler, run

SUPPORT = Path(__file__).with_name("support.c")
_COMMON = ("-std=c11", "-O3")


def build_executable(
    compiler: Compiler,
    sources: Iterable[Path],
    output: Path,
    *,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> Path:
    """Link C sources into a static executable (dynamic where the host is the target).

    Raises:
        Mnv3cError: a source does not compile or link; the message is the compiler's first error line.
    """
    return _build(compiler, list(sources), output, flags, include, compiler.static_flags)


def build_freestanding(
    compiler: Compiler,
    sources: Iterable[Path],
    output: Path,
    *,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> Path:
    """A shared object without any C library: memcpy, memset and getauxval are linked in.

    ``getauxval`` answers from the exported array ``mnv3c_support_hwcap`` (AT_HWCAP, AT_HWCAP2), which
    whoever loads the object fills in. Raises as ``build_executable``.
    """
    hosted = ("-fPIC", "-fno-stack-protector", "-fvisibility=default")
    # "-z defs": a symbol that nothing supplies must fail here and not when it is first called.
    link = ("-shared", "-nostdlib", "-Wl,-z,defs", "-Wl,-z,max-page-size=4096")
    return _build(compiler, [*sources, SUPPORT], output, (*flags, *hosted), include, link)


def build_shared(
    compiler: Compiler,
    sources: Iterable[Path],
    output: Path,
    *,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> Path:
    """A shared object for this machine, to be loaded with ctypes. Raises as ``build_executable``."""
    return _build(compiler, list(sources), output, (*flags, "-fPIC"), include, ("-shared",))


def _build(
    compiler: Compiler,
    sources: list[Path],
    output: Path,
    flags: Sequence[str],
    include: Sequence[Path],
    link: Sequence[str],
) -> Path:
    if not sources:
        raise Mnv3cError("no C source to build", str(output))
    common = [*_COMMON, *flags, *(f"-I{folder}" for folder in include)]

    def one(source: Path) -> str:
        return str(_object(compiler, common, source, include))

    with ThreadPoolExecutor(max_workers=min(len(sources), os.cpu_count() or 1)) as pool:
        objects = list(pool.map(one, sources))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    run(compiler, [*common, *link, *objects, "-o", str(partial)], f"linking {output.name}")
    partial.replace(output)
    return output


def _object(compiler: Compiler, common: Sequence[str], source: Path, include: Sequence[Path]) -> Path:
    """Compile one source, once a process: the paths of a library are checked one after the other, and
    most of its C, the weights above all, is the same for each."""
    digest = hashlib.sha256(repr((compiler.argv, compiler.version, tuple(common))).encode())
    for file in (source, *(h for d in (source.parent, *include) for h in sorted(d.glob("*.h")))):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    target = _objects() / f"{digest.hexdigest()}.o"
    if not target.exists():
        partial = target.with_suffix(f".{threading.get_ident()}.o")
        run(compiler, [*common, "-c", str(source), "-o", str(partial)], f"compiling {source.name}")
        partial.replace(target)
    return target


@functools.cache
def _objects() -> Path:
    """A folder for objects that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="mnv3c-objects-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
