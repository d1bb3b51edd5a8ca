"""Finding a C compiler for 64-bit Arm, 32-bit Arm or this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnv3c.errors import Mnv3cError

ARM = "aarch64"
ARMV7 = "armv7"
HOST = "host"
_TIMEOUT = 120  # seconds; zig builds its C library in the first run
# Architecture to what Clang and zig call it.
_TRIPLES = {
    ARM: ("aarch64-linux-gnu", "aarch64-linux-musl"),
    ARMV7: ("armv7a-linux-gnueabihf", "arm-linux-musleabihf"),
}
# Architecture to names of GCC for it.
_CROSS = {
    ARM: ("aarch64-linux-gnu-gcc", "aarch64-none-linux-gnu-gcc", "aarch64-linux-musl-gcc"),
    ARMV7: ("arm-linux-gnueabihf-gcc", "arm-none-linux-gnueabihf-gcc", "arm-linux-musleabihf-gcc"),
}
_ADVICE = {
    ARM: "no C compiler found; install gcc-aarch64-linux-gnu, clang with its cross libraries, the Android NDK"
    " (and set ANDROID_NDK_HOME), or `pip install ziglang`",
    ARMV7: "no C compiler for 32-bit Arm found; install gcc-arm-linux-gnueabihf, clang with its cross"
    " libraries, or `pip install ziglang`",
    HOST: "no C compiler for this machine found; install gcc or clang, or `pip install ziglang`",
}


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was tried and works.

    Attributes:
        name: how people call it (``aarch64-linux-gnu-gcc``, ``zig cc``).
        version: as it reports it, one line.
        kind: ``gcc``, ``clang`` or ``zig``: the key of a target's flags.
        argv: the command, with what selects the target.
        arch: ``aarch64``, ``armv7`` or ``host``.
        origin: why this one: ``--cc``, ``$MNV3C_CC``, ``PATH``, ``Android NDK``, ``ziglang package``.
    """

    name: str
    version: str
    kind: str
    argv: tuple[str, ...]
    arch: str
    origin: str

    @property
    def static_flags(self) -> tuple[str, ...]:
        """What links programs that an emulator can run without a system around them."""
        return ("-static",) if self.arch in _TRIPLES and platform.system() == "Linux" else ()

    def environment(self) -> dict[str, str]:
        """The process environment, with zig's caches in the user's cache folder."""
        env = dict(os.environ)
        if self.kind == "zig":
            cache = str(_cache_directory() / "zig")
            env.setdefault("ZIG_GLOBAL_CACHE_DIR", cache)
            env.setdefault("ZIG_LOCAL_CACHE_DIR", cache)
        return env


def host_is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def find(arch: str = ARM, cc: str | None = None) -> Compiler:
    """The compiler to use for ``arch`` (``aarch64``, ``armv7`` or ``host``).

    Args:
        cc: a command line, which must then work; else ``$MNV3C_CC`` (for ``aarch64``), else the
            first that works of ``candidates``.

    Raises:
        Mnv3cError: the asked one does not work, or none was found.
    """
    chosen, origin = (
        (cc, "--cc") if cc else (os.environ.get("MNV3C_CC") if arch == ARM else None, "$MNV3C_CC")
    )
    if chosen:
        return _asked(chosen, arch, origin)
    for compiler in candidates(arch):
        return compiler
    raise Mnv3cError(_ADVICE[arch], f"compiler for {arch}")


def candidates(arch: str = ARM) -> Iterator[Compiler]:
    """Every compiler found that passes a trial build, best first."""
    for name, argv, kind, origin in _known(arch):
        try:
            yield _try(name, tuple(argv), kind, arch, origin)
        except Mnv3cError:
            continue


_Entry = tuple[str, list[str], str, str]


def _known(arch: str) -> Iterator[_Entry]:
    if arch == HOST or (arch == ARM and host_is_arm()):
        yield from _on_path(("gcc", "clang", "cc"))
    else:
        yield from _on_path(_CROSS[arch])
        clang = shutil.which("clang")
        if clang:
            yield "clang", [clang, f"--target={_TRIPLES[arch][0]}"], "clang", "PATH"
        if arch == ARM:
            yield from _ndk()
    if importlib.util.find_spec("ziglang") is not None:
        argv = [sys.executable, "-m", "ziglang", "cc"]
        yield "zig cc", argv + _zig_target(arch), "zig", "ziglang package"


def _on_path(names: tuple[str, ...]) -> Iterator[_Entry]:
    for name in names:
        found = shutil.which(name)
        if found:
            yield name, [found], "clang" if "clang" in name else "gcc", "PATH"


def _zig_target(arch: str) -> list[str]:
    return ["-target", _TRIPLES[arch][1]] if arch in _TRIPLES else []


def _ndk() -> Iterator[_Entry]:
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
        root = os.environ.get(variable)
        if not root:
            continue
        tools = sorted(Path(root).glob("toolchains/llvm/prebuilt/*/bin/aarch64-linux-android*-clang"))
        # The oldest system it can build for: what runs there runs on all newer ones.
        for tool in tools[:1]:
            yield tool.name, [str(tool)], "clang", f"Android NDK, ${variable}"
        return


def _asked(command: str, arch: str, origin: str) -> Compiler:
    """The compiler of ``--cc`` or ``$MNV3C_CC``; adds the target where it serves several."""
    try:
        argv = shlex.split(command)
    except ValueError as error:  # a quote that is never closed
        raise Mnv3cError(f"{command!r} is not a command line: {error}", origin) from None
    if not argv or not shutil.which(argv[0]):
        raise Mnv3cError(f"no such command: {argv[0] if argv else command!r}", origin)
    is_zig = "ziglang" in argv or (Path(argv[0]).stem == "zig")
    if is_zig and argv[-1] != "cc" and "cc" not in argv:
        argv.append("cc")
    kind = "zig" if is_zig else _kind(tuple(argv), origin)
    targeted = any(a.startswith(("-target", "--target")) for a in argv)
    if is_zig and not targeted:
        argv += _zig_target(arch)
    elif kind == "clang" and arch in _TRIPLES and not targeted and not _makes_arm(tuple(argv), arch):
        argv.append(f"--target={_TRIPLES[arch][0]}")
    return _try(Path(argv[0]).name if not is_zig else "zig cc", tuple(argv), kind, arch, origin)


def _kind(argv: tuple[str, ...], origin: str) -> str:
    text = _output((*argv, "--version"), origin).lower()
    return "clang" if "clang" in text else "gcc"


def _makes_arm(argv: tuple[str, ...], arch: str) -> bool:
    names = ("aarch64", "arm64") if arch == ARM else ("arm-", "armv7")
    return _output((*argv, "-dumpmachine"), "compiler").startswith(names)


def _output(argv: tuple[str, ...], place: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Mnv3cError(f"cannot run {argv[0]}: {error}", place) from None
    return done.stdout


_TRIAL = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef WANT_ARM
#if !defined(__aarch64__) && !defined(_M_ARM64)
#error not a compiler for 64-bit Arm
#endif
#include <arm_neon.h>
#endif
#ifdef WANT_ARMV7
#if !defined(__arm__)
#error not a compiler for 32-bit Arm
#endif
#endif
int main(void) { return 0; }
"""


@functools.cache
def _try(name: str, argv: tuple[str, ...], kind: str, arch: str, origin: str) -> Compiler:
    """Build a trial program: a compiler without its headers or libraries is of no use."""
    version = _output((*argv, "--version"), origin).strip().splitlines()
    compiler = Compiler(name, version[0] if version else "unknown version", kind, argv, arch, origin)
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        source = Path(folder, "trial.c")
        source.write_text(_TRIAL)
        flags = [f"-DWANT_{'ARM' if arch == ARM else arch.upper()}", *compiler.static_flags]
        run(compiler, [*flags, str(source), "-o", str(Path(folder, "trial"))], "trial build")
    return compiler


def run(compiler: Compiler, arguments: list[str], what: str) -> str:
    """Run the compiler and return what it printed.

    Raises:
        Mnv3cError: it failed; the message is its first error line.
    """
    try:
        done = subprocess.run(
            [*compiler.argv, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT * 5,
            check=False,
            env=compiler.environment(),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Mnv3cError(f"{what}: cannot run {compiler.argv[0]}: {error}", compiler.name) from None
    if done.returncode:
        raise Mnv3cError(
            f"{what}: {first_error(done.stderr) or f'exit code {done.returncode}'}", compiler.name
        )
    return done.stdout + done.stderr


def first_error(text: str) -> str:
    """The first line that states an error, else the first line there is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in lines if "error:" in line.lower() or "undefined " in line),
        lines[0] if lines else "",
    )


def _cache_directory() -> Path:
    """A folder of the user's that outlives the process; a temporary one where there is none to write to."""
    configured = os.environ.get("MNV3C_CACHE_DIR")
    base = (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mnv3c").expanduser()
    )
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    return Path(tempfile.gettempdir(), f"mnv3c-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
