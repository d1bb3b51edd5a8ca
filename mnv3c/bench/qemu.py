"""Counting under ``qemu-aarch64`` with the plugin beside this file."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
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


def count(
    executable: Path,
    cpu: str,
    *,
    caches: bool = True,
    l1: tuple[int, int] = (32 << 10, 4),
    l2: tuple[int, int] = (256 << 10, 8),
    emulator: str = "qemu-aarch64",
) -> list[Segment]:
    """Run a program that marks segments and return them.

    Args:
        cpu: for ``-cpu``.
        caches: simulate them; about twice the time.
        l1, l2: bytes and ways of the data caches, lines of 64 bytes.
        emulator: ``qemu-arm`` for a 32-bit program.

    Raises:
        Mnv3cError: qemu or a compiler for the plugin is missing, or qemu cannot load it.
        CheckFailed: the program failed.
    """
    qemu = shutil.which(emulator)
    if qemu is None:
        raise Mnv3cError("not installed (Debian, Ubuntu: apt install qemu-user)", emulator)
    options = f"cache={int(caches)},l1={l1[0]},l1ways={l1[1]},l2={l2[0]},l2ways={l2[1]}"
    api = 1
    with tempfile.TemporaryDirectory(prefix="mnv3c-bench-") as folder:
        output = Path(folder, "counts")
        while True:
            plugin = _plugin(Path(folder), api)
            argv = [qemu, "-cpu", cpu, "-plugin", f"{plugin},out={output},{options}", str(executable)]
            try:
                done = subprocess.run(
                    argv, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
                )
            except subprocess.TimeoutExpired:
                raise Mnv3cError(f"took more than {_TIMEOUT} s", emulator) from None
            wanted = re.search(r"requires API version.*?(\d+)\D*$", done.stderr.strip().replace("\n", " "))
            if not wanted or int(wanted[1]) == api:
                break
            # qemu names the version that it has: what the plugin uses is the same in all of them.
            api = int(wanted[1])
        if done.returncode or not output.is_file():
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            raise CheckFailed(f"the counted program failed on qemu's {cpu}: {reason}")
        with output.open() as file:
            return parse(file)


def _plugin(folder: Path, api: int) -> Path:
    """The plugin, built for one version of qemu's interface."""
    compiler: Compiler = find(HOST)
    key = hashlib.sha256(_SOURCE.read_bytes() + str(api).encode()).hexdigest()[:12]
    plugin = folder / f"count-{key}.so"
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-DPLUGIN_API={api}"]
    # qemu supplies the functions when it loads the plugin.
    if compiler.kind == "zig":
        flags.append("-Wl,-z,undefs")
    run(compiler, [*flags, str(_SOURCE), "-o", str(plugin)], "building the counting plugin")
    return plugin
