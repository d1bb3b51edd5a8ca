"""Counting under ``qemu-aarch64`` with the plugin beside this file."""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv3c.bench.segments import Segment, parse
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.toolchain import find
from mnv3c.toolchain.compiler import HOST, Compiler, run

_SOURCE = Path(__file__).with_name("plugin.c")
_TIMEOUT = 900  # seconds


def available() -> str | None:
    """The version of ``qemu-aarch64``; ``None`` where it is not installed."""
    program = shutil.which("qemu-aarch64")
    if program is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\S+)", done.stdout)
    return match[1] if match else None


@dataclass(frozen=True)
class Counted:
    """A program that ran, to its end or not.

    Attributes:
        code: what the process returned; a signal is negative, or 128 + its number.
        message: the last line on stderr.
        segments: those that it completed.
    """

    code: int
    message: str
    segments: list[Segment]


class Stop:
    """Ends emulators from another thread: those that run, and those that would begin afterwards.

    Attributes:
        asked: whether it was done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.asked = False

    def now(self) -> None:
        """End them."""
        with self._lock:
            self.asked = True
            for process in self._running:
                process.kill()

    @contextlib.contextmanager
    def watch(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Inside, the process can be stopped."""
        with self._lock:
            self._running.add(process)
            if self.asked:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


def count(
    executable: Path,
    cpu: str,
    *,
    caches: bool = True,
    l1: tuple[int, int] = (32 << 10, 4),
    l2: tuple[int, int] = (256 << 10, 8),
    emulator: str = "qemu-aarch64",
) -> list[Segment]:
    """Run a program that marks segments and return them; arguments as of ``count_some``.

    Raises:
        Mnv3cError: qemu or a compiler for the plugin is missing, or qemu cannot load it.
        CheckFailed: the program failed.
    """
    done = count_some(executable, cpu, caches=caches, l1=l1, l2=l2, emulator=emulator)
    if done.code or not done.segments:
        reason = done.message or f"ended with {done.code}"
        raise CheckFailed(f"the counted program failed on qemu's {cpu}: {reason}")
    return done.segments


def count_some(
    executable: Path,
    cpu: str,
    arguments: Sequence[str] = (),
    *,
    caches: bool = True,
    l1: tuple[int, int] = (32 << 10, 4),
    l2: tuple[int, int] = (256 << 10, 8),
    emulator: str = "qemu-aarch64",
    seconds: float = _TIMEOUT,
    stop: Stop | None = None,
) -> Counted:
    """Run a program that may crash.

    Args:
        cpu: for ``-cpu``.
        arguments: of the program.
        caches: simulate them; about twice the time.
        l1, l2: bytes and ways of the data caches, lines of 64 bytes.
        emulator: ``qemu-arm`` for a 32-bit program.
        seconds: that it may take, by the clock.
        stop: ends it before; it then was killed.

    Raises:
        Mnv3cError: qemu or a compiler for the plugin is missing, or qemu cannot load it; the time is up.
    """
    qemu = shutil.which(emulator)
    if qemu is None:
        raise Mnv3cError("not installed (Debian, Ubuntu: apt install qemu-user)", emulator)
    options = f"cache={int(caches)},l1={l1[0]},l1ways={l1[1]},l2={l2[0]},l2ways={l2[1]}"
    with tempfile.TemporaryDirectory(prefix="mnv3c-bench-") as folder:
        output = Path(folder, "counts")
        while True:
            api = _api.get(emulator, 1)
            plugin = f"{_plugin(api)},out={output},{options}"
            argv = [qemu, "-cpu", cpu, "-plugin", plugin, str(executable), *arguments]
            code, errors = _run(argv, emulator, seconds, stop or Stop())
            wanted = re.search(r"requires API version.*?(\d+)\D*$", errors.strip().replace("\n", " "))
            if not wanted or int(wanted[1]) == api:
                break
            # qemu names the version that it has: what the plugin uses is the same in all of them.
            _api[emulator] = int(wanted[1])
        message = (errors.strip().splitlines() or [""])[-1]
        if not output.is_file():
            return Counted(code, message, [])
        with output.open() as file:
            return Counted(code, message, parse(file))


def _run(argv: Sequence[str], emulator: str, seconds: float, stop: Stop) -> tuple[int, str]:
    """Exit code and standard error."""
    process = subprocess.Popen(
        argv, text=True, errors="replace", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with process, stop.watch(process):
        try:
            errors = process.communicate(timeout=seconds)[1]
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Mnv3cError(f"took more than {seconds:g} s", emulator) from None
            raise
    return process.returncode, errors


# Emulator to the version of qemu's interface that it has, once known.
_api: dict[str, int] = {}


@functools.cache
def _folder() -> Path:
    """A folder for the plugin that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="mnv3c-plugin-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _plugin(api: int) -> Path:
    """The plugin, built once a process for each version of qemu's interface."""
    with _building:
        return _built_plugin(api)


_building = threading.Lock()


@functools.cache
def _built_plugin(api: int) -> Path:
    compiler: Compiler = find(HOST)
    plugin = _folder() / f"count-{api}.so"
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-DPLUGIN_API={api}"]
    # qemu supplies the functions when it loads the plugin.
    if compiler.kind == "zig":
        flags.append("-Wl,-z,undefs")
    run(compiler, [*flags, str(_SOURCE), "-o", str(plugin)], "building the counting plugin")
    return plugin
