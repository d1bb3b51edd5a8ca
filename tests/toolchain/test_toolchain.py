"""Every compiler found builds objects that run, and what does not work is said in one line."""

from __future__ import annotations

import ctypes
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from mnv3c import toolchain
from mnv3c.errors import Mnv3cError
from mnv3c.runners import open_library, open_runner
from mnv3c.toolchain import compiler as compilers
from tests.runners.handmade import make

ARM = list(toolchain.candidates("aarch64"))
HOST = list(toolchain.candidates("host"))


def command(c: toolchain.Compiler) -> str:
    return " ".join(c.argv)


@pytest.mark.parametrize("compiler", ARM, ids=lambda c: c.name)
def test_objects_of_every_arm_compiler_run(tmp_path: Path, compiler: toolchain.Compiler) -> None:
    library = open_library(make(tmp_path / "lib"))
    x, k = np.full((2, 3, 4), 5, np.int8), np.array([[[-2]]], np.int16)
    y, z = open_runner(library, "ref", "unicorn", cc=command(compiler)).run([x, k])
    assert y.ravel()[:4].tolist() == [6, 7, 8, 6] and z.item() == -6


def test_memcpy_and_memset_of_the_support_code(tmp_path: Path) -> None:
    """All lengths and offsets around the 16-byte loop, through a compiler that could turn it into itself."""
    calls = "for (int n = 0; n < 24; n++) { memcpy(((uint8_t *)arena) + n % 3, in->x, (size_t)n); }"
    fill = "memset(((uint8_t *)arena) + 50, 0x5a, 33); memcpy(out->y, ((uint8_t *)arena) + 45, 24);"
    library = open_library(make(tmp_path / "lib", calls + fill, "void *memset(void *, int, size_t);"))
    inputs = [np.arange(24, dtype=np.int8).reshape(2, 3, 4), np.ones((1, 1, 1), np.int16)]
    for compiler in ARM:
        y = open_runner(library, "ref", "unicorn", cc=command(compiler)).run(inputs)[0].ravel()
        assert y[5:].tolist() == [0x5A] * 19, compiler.name


@pytest.mark.parametrize("compiler", HOST, ids=lambda c: c.name)
def test_host_shared_object(tmp_path: Path, compiler: toolchain.Compiler) -> None:
    source = tmp_path / "f.c"
    source.write_text("int twice(int x) { return 2 * x; }\n")
    built = toolchain.build_shared(compiler, [source], tmp_path / "f.so")
    assert ctypes.CDLL(str(built)).twice(21) == 42
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.c", "f.so"]


def test_ziglang_is_found_without_any_other_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "MNV3C_CC"):
        monkeypatch.delenv(variable, raising=False)
    found = toolchain.find("aarch64")
    assert (found.kind, found.origin) == ("zig", "ziglang package")
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Mnv3cError, match=r"gcc-aarch64-linux-gnu.*ziglang"):
        toolchain.find("aarch64")


def test_ndk_is_found_by_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in: the folder layout of the NDK, around a compiler that is there."""
    tools = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin"
    tools.mkdir(parents=True)
    for api in (21, 34):
        script = tools / f"aarch64-linux-android{api}-clang"
        zig = f"{sys.executable} -m ziglang cc -target aarch64-linux-musl"
        script.write_text(f'#!/bin/sh\nexec {zig} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    found = [c for c in toolchain.candidates("aarch64") if c.origin.startswith("Android NDK")]
    assert [c.name for c in found] == ["aarch64-linux-android21-clang"]


def test_asked_compiler_wins_and_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3C_CC", f"{sys.executable} -m ziglang cc")
    assert toolchain.find("aarch64").origin == "$MNV3C_CC"
    assert "-target" in toolchain.find("aarch64").argv
    with pytest.raises(Mnv3cError, match="--cc: no such command: 'nonsense'"):
        toolchain.find("aarch64", "nonsense")
    with pytest.raises(Mnv3cError, match="--cc: no such command"):
        toolchain.find("aarch64", " ")
    monkeypatch.setenv("MNV3C_CC", "also-nonsense")
    with pytest.raises(Mnv3cError, match=r"\$MNV3C_CC: no such command: 'also-nonsense'"):
        toolchain.find("aarch64")


@pytest.mark.skipif(compilers.host_is_arm(), reason="this machine's compiler makes Arm code")
def test_a_compiler_for_another_machine_is_refused() -> None:
    gcc = next((c for c in HOST if c.kind == "gcc"), None)
    if gcc is None:
        pytest.skip("no gcc for this machine")
    with pytest.raises(Mnv3cError, match="not a compiler for 64-bit Arm"):
        toolchain.find("aarch64", command(gcc))


def test_first_error_line() -> None:
    gcc = "In file included from a.c:1:\na.h:2:1: warning: odd\na.h:3:5: error: unknown type name 'x'\n"
    assert compilers.first_error(gcc) == "a.h:3:5: error: unknown type name 'x'"
    assembler = "/tmp/x.s: Assembler messages:\n/tmp/x.s:9: Error: unknown mnemonic\n"
    assert compilers.first_error(assembler).endswith("unknown mnemonic")
    assert compilers.first_error("ld: a.o: undefined reference to `puts'\n").endswith("`puts'")
    assert compilers.first_error("\n") == ""


def test_caches_stay_out_of_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNV3C_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    zig = next(c for c in ARM if c.kind == "zig")
    assert zig.environment()["ZIG_GLOBAL_CACHE_DIR"] == str(tmp_path / "cache" / "zig")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNV3C_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert "mnv3c-cache-" in zig.environment()["ZIG_GLOBAL_CACHE_DIR"]
