"""Running a library on an emulated Arm CPU inside this process, with Unicorn.

Unicorn's core is QEMU 5: it has the dot product, it lacks SMMLA (path ``i8mm`` needs ``qemu``).
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import unicorn
from unicorn import arm64_const as arm

from mnv3c import toolchain
from mnv3c.camera import Frame
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.errors import Mnv3cError
from mnv3c.runners import elf
from mnv3c.runners.base import ARENA_ALIGN, RunFault, cpu_for, junk
from mnv3c.runners.frames import check_frame, pack_frame, readable
from mnv3c.runners.library import Library

_IMAGE = 0x4000_0000
_RETURN = 0x1000_0000  # where a call returns to; nothing is executed there
_STACK_TOP, _STACK_BYTES = 0x2000_0000, 1 << 18
_EXEC = 0x2800_0000
_FRAME = _EXEC + 2048
_DATA = 0x10_0000_0000
_GAP = 1 << 20  # unmapped, between any two regions
_MODELS = {"a53": arm.UC_CPU_ARM64_A53, "a72": arm.UC_CPU_ARM64_A72, "max": arm.UC_CPU_ARM64_MAX}
# Linux's HWCAP bits (arch/arm64/include/uapi/asm/hwcap.h): FP, ASIMD; ASIMDRDM, ASIMDDP.
_HWCAP_BASE, _HWCAP_DOTPROD = 0b11, 1 << 12 | 1 << 20
_ARGUMENTS = tuple(getattr(arm, f"UC_ARM64_REG_X{i}") for i in range(8))


@dataclass(frozen=True)
class _Region:
    """Mapped pages with unmapped ones on both sides."""

    what: str
    address: int
    mapped: int
    bytes: int

    def place(self, align: int, at_end: bool) -> int:
        """Where the data lies: against the first or the last byte of the mapping."""
        return (self.address + self.mapped - self.bytes) // align * align if at_end else self.address


class UnicornRunner:
    """Builds a freestanding object, loads it and calls it.

    Every run fills the arena, the outputs and the rest of their pages with fresh junk. Buffers lie
    against the end of their pages in one run and against the start in the next: an access that leaves
    them on either side faults at once or shows in the bytes around. Inputs, code and constants are
    write-protected.
    """

    name = "unicorn"

    def __init__(
        self,
        library: Library,
        path: str,
        *,
        core: str | None = None,
        cc: str | None = None,
        timeout: float = 900.0,
        parallel: bool = False,
    ) -> None:
        """Args:
        path: one of the library's.
        core: CPU to run on, from ``targets/``; by default the library's own, or the path's least.
        timeout: seconds a run may take.
        parallel: hand in a ``parallel_for``, which runs the shares of a layer in reverse order.
        """
        self.library = library
        self.path = path
        self._cpu = cpu_for(library, path, core)
        if path == "i8mm":
            raise Mnv3cError("Unicorn has no i8mm instructions; use the qemu runner", "path i8mm")
        self.where = f"{self._cpu.core} (Unicorn, {self._cpu.unicorn})"
        self.stack_bytes = 0
        self._timeout = timeout
        self.parallel = parallel
        self._runs = 0
        self._access = ""
        self._image = self._build(cc)
        self._engine = self._start()
        self._inputs = [self._map(f"input {t.name}", t.bytes, 1 + i) for i, t in enumerate(library.inputs)]
        self._outputs = [
            self._map(f"output {t.name}", t.bytes, 65 + i) for i, t in enumerate(library.outputs)
        ]
        self._arena = self._map("arena", library.arena_bytes, 0)
        self._image_region: _Region | None = None

    def _build(self, cc: str | None) -> elf.Image:
        compiler = toolchain.find("aarch64", cc)
        with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
            output = Path(folder, "library.so")
            toolchain.build_freestanding(
                compiler, self.library.sources, output, flags=self._cpu.flags[compiler.kind]
            )
            return elf.load(output.read_bytes(), _IMAGE)

    def _start(self) -> unicorn.Uc:
        engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        engine.ctl_set_cpu_model(_MODELS[self._cpu.unicorn])
        engine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # do not trap NEON
        for s in self._image.segments:
            rights = unicorn.UC_PROT_READ
            rights |= unicorn.UC_PROT_WRITE if s.writable else 0
            rights |= unicorn.UC_PROT_EXEC if s.executable else 0
            engine.mem_map(s.address, len(s.data), rights)
            engine.mem_write(s.address, s.data)
        engine.mem_map(_RETURN, elf.PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        engine.mem_map(_STACK_TOP - _STACK_BYTES, _STACK_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        engine.mem_map(_EXEC, elf.PAGE, unicorn.UC_PROT_READ)
        dotprod = _HWCAP_DOTPROD if "dotprod" in self._cpu.features else 0
        hwcap = struct.pack("<QQ", _HWCAP_BASE | dotprod, 0)  # no i8mm, whatever the core has
        engine.mem_write(self._image.symbols["mnv3c_support_hwcap"], hwcap)
        engine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_access)
        return engine

    def _map(self, what: str, size: int, slot: int) -> _Region:
        mapped = max(1, -(-size // elf.PAGE)) * elf.PAGE
        address = _DATA + slot * (1 << 32) + _GAP
        rights = unicorn.UC_PROT_READ
        if not what.startswith("input"):
            rights |= unicorn.UC_PROT_WRITE
        self._engine.mem_map(address, mapped, rights)
        return _Region(what, address, mapped, size)

    def _on_bad_access(
        self, engine: unicorn.Uc, access: int, address: int, size: int, value: int, data: object
    ) -> bool:
        writes = (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT)
        kind = "write" if access in writes else "read"
        if access in (unicorn.UC_MEM_FETCH_UNMAPPED, unicorn.UC_MEM_FETCH_PROT):
            kind = "jump"
        self._access = f"bad {kind} of {size} bytes at {self._describe(address)}"
        return False

    def _describe(self, address: int) -> str:
        """An address in terms of the buffer that it is in or nearest to."""
        if _STACK_TOP - _STACK_BYTES - _GAP <= address < _STACK_TOP - _STACK_BYTES:
            return f"the stack, beyond {_STACK_BYTES} bytes"
        for r in (*self._inputs, *self._outputs, self._arena):
            start = r.place(self._align(r), self._runs % 2 == 0)
            if r.address - _GAP <= address < r.address + r.mapped + _GAP:
                return f"{r.what}[{address - start}] of {r.bytes} bytes"
        for s in self._image.segments:
            if s.address <= address < s.address + len(s.data):
                return f"the library's own constants or code ({self._image.where(address)})"
        return f"{address:#x}"

    def _align(self, region: _Region) -> int:
        if region.what == "arena":
            return ARENA_ALIGN
        for tensor, r in zip(
            (*self.library.inputs, *self.library.outputs), (*self._inputs, *self._outputs), strict=True
        ):
            if r is region:
                return int(np.dtype(tensor.dtype).itemsize)
        return 1

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """See ``Runner.run``."""
        return self._run(self.library.check_inputs(inputs), None)

    def run_camera(self, frame: Frame) -> list[np.ndarray]:
        """See ``Runner.run_camera``."""
        with self._framed(frame) as at:
            return self._run([], at)

    def camera_image(self, frame: Frame) -> np.ndarray:
        """See ``Runner.camera_image``."""
        info = self.library.inputs[0]
        if self._image_region is None:
            self._image_region = self._map("camera image", info.bytes, 60)
        r = self._image_region
        at_end = self._runs % 2 == 0
        at = r.place(np.dtype(info.dtype).itemsize, at_end)
        before = [(x, junk(x.mapped, self._runs * 131 + i)) for i, x in enumerate((r, self._arena))]
        for region, bytes_ in before:
            self._engine.mem_write(region.address, bytes_.tobytes())
        arena = self._arena.place(ARENA_ALIGN, at_end)
        with self._framed(frame) as frame_at:
            status = self.call(f"{self.library.name}_camera_image", frame_at, at, arena)
        if status:
            raise self._fault(f"{self.library.name}_camera_image returned {status}")
        for (region, bytes_), start in zip(before, (at, arena), strict=True):
            self._check_around(region, start, bytes_)
        self._runs += 1
        data = bytes(self._engine.mem_read(at, info.bytes))
        return np.frombuffer(data, np.dtype(info.dtype)).reshape(info.shape).copy()

    @contextlib.contextmanager
    def _framed(self, frame: Frame) -> Iterator[int]:
        """The frame in memory of its own, write-protected: the address of its struct."""
        check_frame(self.library, frame)
        addresses, regions = [], []
        for i, plane in enumerate(readable(frame)):
            region = self._map(f"input plane {i}", plane.size, 61 + i)
            regions.append(region)
            addresses.append(region.place(1, self._runs % 2 == 0))
            self._engine.mem_write(addresses[-1], plane.tobytes())
        self._engine.mem_write(_FRAME, pack_frame(frame, addresses))
        try:
            yield _FRAME
        finally:
            for region in regions:
                self._engine.mem_unmap(region.address, region.mapped)

    def _run(self, arrays: list[np.ndarray], frame_at: int | None) -> list[np.ndarray]:
        """Of input arrays, or of the frame at that address."""
        at_end = self._runs % 2 == 0
        before: dict[str, np.ndarray] = {}
        at: dict[str, int] = {}
        for i, r in enumerate((*self._inputs, *self._outputs, self._arena)):
            before[r.what] = junk(r.mapped, self._runs * 131 + i)
            at[r.what] = r.place(self._align(r), at_end)
            self._engine.mem_write(r.address, before[r.what].tobytes())
        for r, array in zip(self._inputs, arrays, strict=False):
            self._engine.mem_write(at[r.what], array.tobytes())
        self._write_exec([at[r.what] for r in self._inputs], [at[r.what] for r in self._outputs])
        multiple = len(self.library.paths) > 1 or self.parallel
        outputs_at = _EXEC + 8 * len(self._inputs)
        exec_at = outputs_at + 8 * len(self._outputs)
        symbol = f"{self.library.name}_run" if frame_at is None else f"{self.library.name}_run_camera"
        given = _EXEC if frame_at is None else frame_at
        status = self.call(symbol, given, outputs_at, at["arena"], exec_at if multiple else 0)
        if status:
            raise self._fault(f"{symbol} returned {status}")
        results = []
        for r, t in zip(self._outputs, self.library.outputs, strict=True):
            data = bytes(self._engine.mem_read(at[r.what], r.bytes))
            results.append(np.frombuffer(data, np.dtype(t.dtype)).reshape(t.shape).copy())
        for r in (*self._outputs, self._arena):
            self._check_around(r, at[r.what], before[r.what])
        self._runs += 1
        return results

    def best_path(self) -> str:
        """The path that the library itself takes on this CPU."""
        number = self.call(f"{self.library.name}_best_path")
        return next((p for p, i in PATH_IDS.items() if i == number), f"number {number}")

    def call(self, symbol: str, *arguments: int) -> int:
        """Call an exported function of up to eight integer or pointer arguments; its int32 result."""
        engine, target = self._engine, self._image.symbols.get(symbol)
        if target is None:
            raise Mnv3cError(f"the library does not export {symbol}", self.library.name)
        stack = junk(_STACK_BYTES, self._runs + 7)
        engine.mem_write(_STACK_TOP - _STACK_BYTES, stack.tobytes())
        for register, value in zip(_ARGUMENTS, arguments, strict=False):
            engine.reg_write(register, value)
        engine.reg_write(arm.UC_ARM64_REG_SP, _STACK_TOP)
        engine.reg_write(arm.UC_ARM64_REG_X30, _RETURN)
        self._access = ""
        try:
            engine.emu_start(target, _RETURN, timeout=int(self._timeout * 1e6))
        except unicorn.UcError as error:
            raise self._fault(self._access or _meaning(error)) from None
        if engine.reg_read(arm.UC_ARM64_REG_PC) != _RETURN:
            raise self._fault(f"did not end within {self._timeout:g} s")
        after = np.frombuffer(bytes(engine.mem_read(_STACK_TOP - _STACK_BYTES, _STACK_BYTES)), np.uint8)
        used = np.flatnonzero(after != stack)
        self.stack_bytes = max(self.stack_bytes, _STACK_BYTES - int(used[0]) if used.size else 0)
        result = int(engine.reg_read(arm.UC_ARM64_REG_X0)) & 0xFFFF_FFFF
        return result - (1 << 32) if result >> 31 else result

    def _write_exec(self, inputs: list[int], outputs: list[int]) -> None:
        """The structs of the interface: one pointer a tensor; then ``exec``, which ends in the path."""
        many = self.library.paths if len(self.library.paths) > 1 else ()
        path = PATH_IDS[self.path] if self.path in many else 0
        share = self._image.symbols["mnv3c_support_parallel_for"] if self.parallel else 0
        data = struct.pack(f"<{len(inputs) + len(outputs) + 4}Qi", *inputs, *outputs, share, 0, 0, 0, path)
        self._engine.mem_write(_EXEC, data)

    def _check_around(self, region: _Region, at: int, before: np.ndarray) -> None:
        after = np.frombuffer(bytes(self._engine.mem_read(region.address, region.mapped)), np.uint8)
        start = at - region.address
        changed = np.flatnonzero(after != before)
        outside = changed[(changed < start) | (changed >= start + region.bytes)]
        if outside.size:
            raise self._fault(
                f"wrote outside: {region.what}[{int(outside[0]) - start}] of {region.bytes} bytes"
            )

    def _fault(self, what: str) -> RunFault:
        pc = self._engine.reg_read(arm.UC_ARM64_REG_PC)
        place = "" if pc == _RETURN else f" in {self._image.where(pc)}"
        if what.startswith("illegal") and pc != _RETURN:
            word = int.from_bytes(bytes(self._engine.mem_read(pc, 4)), "little")
            place += f" (instruction {word:#010x})"
        return RunFault(f"path {self.path} on {self.where}: {what}{place}")

    def close(self) -> None:
        """Nothing outlives the object."""


def _meaning(error: unicorn.UcError) -> str:
    illegal = (unicorn.UC_ERR_EXCEPTION, unicorn.UC_ERR_INSN_INVALID)
    return "illegal instruction" if error.errno in illegal else str(error)
