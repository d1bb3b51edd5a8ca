"""What of mnv3c's surroundings is installed here."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mnv3c import __version__, toolchain
from mnv3c.errors import Mnv3cError
from mnv3c.runners.process import qemu
from mnv3c.toolchain.compiler import host_is_arm

# Exact where another version is known to be broken.
_PACKAGES = {
    "apache-tvm": ("0.27.0.post1", "reading and rewriting models"),
    "apache-tvm-ffi": ("0.1.14.post1", "reading and rewriting models"),
    "numpy": ("", "reference, quantisation"),
    "onnx": ("", "reading ONNX files"),
    "jinja2": ("", "writing C"),
    "pillow": ("", "calibration images"),
    "unicorn": ("", "running on emulated Arm"),
    "pyelftools": ("", "running on emulated Arm"),
    "ziglang": ("", "a C compiler for Arm without any other"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        needed: whether mnv3c is of no use without it.
        found: version and place, or what is wrong.
        purpose: what it is for.
    """

    what: str
    ok: bool
    needed: bool
    found: str
    purpose: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> tuple[Finding, ...]:
    """Look for everything; takes a few seconds, because compilers are tried."""
    return tuple(_examine())


def _examine() -> Iterator[Finding]:
    version = f"{platform.python_version()} ({platform.machine()}, {platform.system()})"
    yield Finding("mnv3c", True, True, __version__, "")
    yield Finding("Python", sys.version_info >= (3, 11), True, version, "at least 3.11")
    for name, (exact, purpose) in _PACKAGES.items():
        yield _package(name, exact, purpose)
    arm = [_compiler(c) for c in toolchain.candidates("aarch64")]
    yield Finding("C compiler for Arm", bool(arm), True, "; ".join(arm) or "none works", "verify")
    arm32 = [_compiler(c) for c in toolchain.candidates("armv7")]
    yield Finding(
        "C compiler for 32-bit Arm", bool(arm32), False, "; ".join(arm32) or "none works", "path armv7"
    )
    host = [_compiler(c) for c in toolchain.candidates("host")]
    yield Finding(
        "C compiler for this machine", bool(host), False, "; ".join(host) or "none works", "path ref here"
    )
    yield _unicorn()
    found = qemu()
    needs = "path i8mm on emulated Arm"
    yield Finding(
        "qemu-aarch64", found is not None, False, _version(found) if found else "not installed", needs
    )
    found = qemu("armv7")
    yield Finding(
        "qemu-arm",
        found is not None,
        False,
        _version(found) if found else "not installed",
        "path armv7 on emulated Arm",
    )
    yield Finding("Arm machine", host_is_arm(), False, platform.machine(), "running without emulation")
    mca = shutil.which("llvm-mca")
    yield Finding(
        "llvm-mca", mca is not None, False, _version(mca) if mca else "not installed", "estimated cycles"
    )


def _package(name: str, exact: str, purpose: str) -> Finding:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, True, "not installed", purpose)
    if exact and found != exact:
        return Finding(name, False, True, f"{found}, but {exact} is needed", purpose)
    return Finding(name, True, True, found, purpose)


def _compiler(compiler: toolchain.Compiler) -> str:
    return f"{compiler.name} ({compiler.origin})"


def _unicorn() -> Finding:
    """Whether a dot product on the emulated CPU gives the right sum."""
    try:
        import unicorn
        from unicorn import arm64_const as arm

        engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        engine.ctl_set_cpu_model(arm.UC_CPU_ARM64_MAX)
        engine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)
        engine.mem_map(0x1000, 0x1000)
        engine.mem_write(0x1000, (0x4E829420).to_bytes(4, "little"))  # sdot v0.4s, v1.16b, v2.16b
        for register, byte in ((arm.UC_ARM64_REG_V0, 0), (arm.UC_ARM64_REG_V1, 3), (arm.UC_ARM64_REG_V2, 5)):
            engine.reg_write(register, int.from_bytes(bytes([byte]) * 16, "little"))
        engine.emu_start(0x1000, 0x1004)
        right = engine.reg_read(arm.UC_ARM64_REG_V0) & 0xFFFF_FFFF == 4 * 3 * 5
        found = "runs, SDOT is right" if right else "SDOT gives a wrong sum"
    except (ImportError, OSError) as error:
        right, found = False, f"cannot be loaded: {error}"
    except unicorn.UcError as error:
        right, found = False, f"SDOT does not run: {error}"
    return Finding("Unicorn emulator", right, True, found, "paths neon and dotprod on emulated Arm")


def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Mnv3cError(f"cannot run: {error}", program) from None
    lines = [line.strip() for line in done.stdout.splitlines() if "version" in line.lower()]
    return f"{lines[0] if lines else 'unknown version'} ({program})"
