"""Making a device server that needs no Python, and putting it on a phone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv3c import __version__, resources, toolchain
from mnv3c.codegen.write import MANIFEST, check_replaceable, write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.toolchain import Compiler
from mnv3c.toolchain.compiler import run

# The versions that the client is pinned to (pyproject.toml): both ends must speak the same protocol.
WHEELS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
# What these and the server need of a GNU system; Android has none of it.
SYSTEM = (
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "libstdc++.so.6",
    "libgcc_s.so.1",
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
_DOWNLOAD_SECONDS = 600
_KIND = "device server"
PHONE_FOLDER = "/data/local/tmp/mnv3c"

_RUN = """#!/bin/sh
# Starts the device server; arguments go to it, for example --port 9090. It listens on 127.0.0.1 alone unless
# --host says otherwise: whoever reaches its port can run any code as this user.
here=$(cd "$(dirname "$0")" && pwd)
TMPDIR="$here/work"
export TMPDIR
mkdir -p "$TMPDIR"
if [ ! -e /lib/ld-linux-aarch64.so.1 ] && [ -e "$here/lib/ld-linux-aarch64.so.1" ]; then
  exec "$here/lib/ld-linux-aarch64.so.1" --library-path "$here/lib:$here" "$here/server" "$@"
fi
LD_LIBRARY_PATH="$here" exec "$here/server" "$@"
"""


@dataclass(frozen=True)
class DeviceFolder:
    """A device server that was built.

    Attributes:
        android: whether it brings the GNU libraries that a phone lacks.
        notes: what the user should know.
    """

    directory: Path
    android: bool
    compiler: str
    notes: tuple[str, ...]


def build(
    directory: Path,
    *,
    cc: str | None = None,
    wheels: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> DeviceFolder:
    """Build the server for 64-bit Arm Linux and Android into ``directory``, with the libraries it needs.

    Args:
        wheels: a folder that has the two wheels of ``WHEELS`` for aarch64; else pip downloads them.

    Raises:
        Mnv3cError: no compiler, no wheels, or the folder holds something that is not ours.
    """
    check_replaceable(directory.absolute())
    tell = progress or (lambda step, done, total: None)
    compiler = _glibc(toolchain.find("aarch64", cc))
    with tempfile.TemporaryDirectory(prefix="mnv3c-device-") as name:
        folder = Path(name)
        tell("TVM's runtime for aarch64", 0, 1)
        for wheel in _wheels(wheels, folder):
            _extract(wheel, folder)
        tell("TVM's runtime for aarch64", 1, 1)
        tell("compile the server", 0, 1)
        libraries = [folder / library for library in LIBRARIES]
        source = resources.directory("templates") / "tuning" / "server.c"
        flags = ["-std=gnu11", "-O2", f"-I{source.parent}"]
        # The runtime is not called by name: it must be loaded all the same.
        link = [
            "-Wl,--no-as-needed",
            *map(str, libraries),
            "-Wl,-rpath,$ORIGIN",
            "-Wl,--allow-shlib-undefined",
        ]
        server = folder / "server"
        run(compiler, [*flags, str(source), *link, "-o", str(server)], "compiling the device server")
        files: dict[str, str | bytes] = {"run.sh": _RUN, "server": server.read_bytes()}
        files.update({library.name: library.read_bytes() for library in libraries})
        system = _system_libraries(compiler)
        files.update({f"lib/{file.name}": file.read_bytes() for file in system})
        tell("compile the server", 1, 1)
    manifest = {
        "mnv3c": __version__,
        "kind": _KIND,
        "wheels": WHEELS,
        "compiler": compiler.version,
        "android": bool(system),
    }
    files[MANIFEST] = json.dumps(manifest, indent=1) + "\n"
    write_folder(directory, files)
    for program in ("run.sh", "server", "lib/ld-linux-aarch64.so.1"):
        if (directory / program).exists():
            (directory / program).chmod(0o755)
    notes = []
    if not system:
        notes.append(
            "this compiler brings no Arm C library: the server runs where there is glibc (Raspberry Pi OS,"
            " Debian, Ubuntu), not on Android; for that install gcc-aarch64-linux-gnu"
        )
    return DeviceFolder(directory, bool(system), compiler.name, tuple(notes))


def _glibc(compiler: Compiler) -> Compiler:
    """The compiler for TVM's libraries, which are built for glibc 2.28."""
    if compiler.kind == "zig":
        argv = tuple("aarch64-linux-gnu.2.28" if a == "aarch64-linux-musl" else a for a in compiler.argv)
        return dataclasses.replace(compiler, argv=argv)
    if "android" in " ".join(compiler.argv) or "musl" in " ".join(compiler.argv):
        raise Mnv3cError("builds for another C library than TVM's runtime (glibc)", compiler.name)
    return compiler


def _wheels(given: Path | None, folder: Path) -> list[Path]:
    if given is None:
        wanted = [f"{name}=={version}" for name, version in WHEELS.items()]
        platforms = [f"--platform={p}" for p in _PLATFORMS]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *platforms]
        command += ["--only-binary=:all:", "--dest", str(folder), *wanted]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Mnv3cError(f"took more than {_DOWNLOAD_SECONDS} s", "pip download") from None
        if done.returncode:
            lines = [s for s in done.stderr.splitlines() if "error" in s.lower()] or [
                f"exit code {done.returncode}"
            ]
            advice = "; download the wheels elsewhere and give their folder with --wheels"
            raise Mnv3cError(f"{lines[-1]}{advice}", "pip download")
        given = folder
    found = []
    for name, version in WHEELS.items():
        pattern = f"{name.replace('-', '_')}-{version}-*aarch64.whl"
        wheel = next(iter(sorted(given.glob(pattern))), None)
        if wheel is None:
            raise Mnv3cError(f"there is no {pattern}", str(given))
        found.append(wheel)
    return found


def _extract(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).name in LIBRARIES:
                    (folder / Path(member).name).write_bytes(archive.read(member))
    except (OSError, zipfile.BadZipFile) as error:
        raise Mnv3cError(f"not a wheel: {error}", str(wheel)) from None


def _system_libraries(compiler: Compiler) -> list[Path]:
    """The compiler's own copies of ``SYSTEM``; none where it does not have all of them as files."""
    found = []
    for name in SYSTEM:
        command = [*compiler.argv, f"-print-file-name={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        path = Path(done.stdout.strip())
        if done.returncode or not path.is_absolute() or not path.is_file():
            return []
        found.append(path)
    # Resolved contents under the names that the loader asks for.
    return [p.parent / name for p, name in zip(found, SYSTEM, strict=True)]


def push(directory: Path, serial: str | None = None, *, port: int = 9090) -> list[str]:
    """Put a built server on a phone with ``adb`` and forward its port to this machine.

    Returns:
        The command that starts it.

    Raises:
        Mnv3cError: adb is missing or fails, or the folder is not one that ``build`` made for Android.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        ours = manifest.get("kind") == _KIND
    except (OSError, ValueError, AttributeError):
        ours, manifest = False, {}
    if not ours:
        raise Mnv3cError("holds no device server; make one with: mnv3c device build -o DIR", str(directory))
    if not manifest.get("android"):
        raise Mnv3cError(
            "was built without what Android lacks; install gcc-aarch64-linux-gnu and build again",
            str(directory),
        )
    adb = adb_command(serial)
    _adb([*adb, "shell", f"rm -rf {PHONE_FOLDER} && mkdir -p {PHONE_FOLDER}"])
    _adb([*adb, "push", f"{directory}/.", PHONE_FOLDER])
    _adb([*adb, "shell", f"chmod -R 755 {PHONE_FOLDER}"])
    _adb([*adb, "forward", f"tcp:{port}", f"tcp:{port}"])
    # With a terminal there, Ctrl-C here ends the server.
    return [*adb, "shell", "-t", f"{PHONE_FOLDER}/run.sh", "--port", str(port)]


def adb_command(serial: str | None) -> list[str]:
    """``adb``, for one phone.

    Raises:
        Mnv3cError: it is not installed.
    """
    program = shutil.which("adb")
    if program is None:
        raise Mnv3cError(
            "not installed (Debian, Ubuntu: apt install adb; else Android's platform tools)", "adb"
        )
    return [program, *(("-s", serial) if serial else ())]


def _adb(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Mnv3cError(f"cannot run: {error}", "adb") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise Mnv3cError(lines[-1], "adb")
