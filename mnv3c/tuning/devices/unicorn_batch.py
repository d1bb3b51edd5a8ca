"""Counting a batch in Unicorn, inside this process, where qemu is not installed; without caches."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import unicorn
from unicorn import arm64_const as arm

from mnv3c.bench import code as machine_code
from mnv3c.bench.segments import RUN, Segment
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.runners import elf
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Status, wrong_bytes
from mnv3c.tuning.devices.bundle import Builder, Built, units
from mnv3c.tuning.devices.qemu_batch import Counts

_IMAGE, _CODE, _BUFFERS = 0x4000_0000, 0x1000_0000, 0x10_0000_0000
_STACK_BYTES, _JUNK = 1 << 18, 0xA5
_MODELS = {"a53": arm.UC_CPU_ARM64_A53, "a72": arm.UC_CPU_ARM64_A72, "max": arm.UC_CPU_ARM64_MAX}
_SVC_RET = struct.pack("<II", 0xD4000001, 0xD65F03C0)
_SYSTEM_CALL = 2  # the number of that exception in Unicorn


class UnicornBatch:
    """Builds and runs batches for one core."""

    caches = False

    def __init__(self, core: Target, builder: Builder, folder: Path, timeout_seconds: int) -> None:
        self._core, self._builder, self._timeout = core, builder, timeout_seconds

    def link(
        self, batch: Sequence[Candidate], built: Built, target: Path
    ) -> tuple[dict[int, int], dict[int, str]]:
        """As ``Builder.link``."""
        return self._builder.bare_object(batch, built, target)

    def run(self, program: Path, candidates: Sequence[Candidate]) -> Counts:
        """Run all candidates of a shared object, one after the other."""
        data = program.read_bytes()
        image = elf.load(data, _IMAGE)
        functions = {name: address for address, _, name in image.functions}
        counts = Counts(machine_code.read(data, _IMAGE))
        for number, candidate in enumerate(candidates):
            if candidate.path == "i8mm":
                reason = "Unicorn has no i8mm instructions; install qemu (apt install qemu-user)"
                counts.failed[number] = (Status.CRASHED, reason)
                continue
            run = _Run(self._core, image, candidate, functions[units(candidate)[0]], self._timeout)
            try:
                entered = run.counted()
            except _Failed as error:
                counts.failed[number] = (error.status, str(error))
            else:
                counts.segments[number] = [Segment(RUN, 0, entered)]
        return counts


class _Failed(Exception):
    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Run:
    """A candidate in an emulator of its own; every buffer has unmapped pages on both sides."""

    def __init__(
        self, core: Target, image: elf.Image, candidate: Candidate, function: int, timeout: int
    ) -> None:
        self._candidate, self._image, self._function, self._timeout = candidate, image, function, timeout
        self._engine = engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        engine.ctl_set_cpu_model(_MODELS[core.unicorn_cpu])
        engine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # do not trap NEON
        for s in image.segments:
            engine.mem_map(s.address, len(s.data))
            engine.mem_write(s.address, s.data)
        engine.mem_map(_CODE, elf.PAGE)
        engine.mem_write(
            _CODE, _SVC_RET
        )  # on_layer; a run returns to the second instruction of the page after
        self._return = _CODE + len(_SVC_RET)
        self._next = _BUFFERS
        self._stack = self._buffer(bytes(_STACK_BYTES)) + _STACK_BYTES
        inputs = [self._buffer(data) for data in candidate.data]
        self._outputs = [self._buffer(bytes([_JUNK]) * len(e)) for e in candidate.expected]
        arena = self._buffer(bytes([_JUNK]) * candidate.arena_bytes)
        on_layer = _CODE if candidate.layers else 0
        path = PATH_IDS[candidate.path]
        # parallel_for, its context, on_layer, its context, path
        execs = [self._buffer(struct.pack("<4qi4x", 0, 0, f, 0, path)) for f in (0, on_layer)]
        tables = [self._buffer(struct.pack(f"<{len(p)}q", *p)) for p in (inputs, self._outputs)]
        self._arguments = [(*tables, arena, e) for e in execs]
        self._entered: Counter[tuple[int, int]] = Counter()
        self._counting = False
        engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        engine.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)

    def _buffer(self, data: bytes) -> int:
        size = -(-max(len(data), 1) // elf.PAGE) * elf.PAGE
        address = self._next
        self._engine.mem_map(address, size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._engine.mem_write(address, data)
        self._next += size + elf.PAGE
        return address

    def _on_block(self, _: unicorn.Uc, address: int, size: int, data: object) -> None:
        if self._counting and address >= _IMAGE:
            self._entered[address, size >> 2] += 1

    def _on_interrupt(self, engine: unicorn.Uc, number: int, data: object) -> None:
        if number != _SYSTEM_CALL:
            engine.emu_stop()
            raise _Failed(Status.CRASHED, f"exception {number} at {self._where()}")
        layer, begin = engine.reg_read(arm.UC_ARM64_REG_X1), engine.reg_read(arm.UC_ARM64_REG_X2)
        if layer in self._candidate.layers:
            self._counting = bool(begin)

    def _where(self) -> str:
        return self._image.where(self._engine.reg_read(arm.UC_ARM64_REG_PC))

    def counted(self) -> dict[tuple[int, int], int]:
        """Run to check, and once more to count; raises ``_Failed``."""
        self._call(self._arguments[0])
        read = self._engine.mem_read
        outputs = [
            bytes(read(a, len(e))) for a, e in zip(self._outputs, self._candidate.expected, strict=True)
        ]
        wrong = wrong_bytes(self._candidate, outputs)
        if wrong is not None:
            raise _Failed(Status.WRONG, wrong)
        self._counting = not self._candidate.layers
        self._call(self._arguments[1])
        return dict(self._entered)

    def _call(self, arguments: Sequence[int]) -> None:
        engine = self._engine
        registers = (arm.UC_ARM64_REG_X0, arm.UC_ARM64_REG_X1, arm.UC_ARM64_REG_X2, arm.UC_ARM64_REG_X3)
        for register, value in zip(registers, arguments, strict=True):
            engine.reg_write(register, value)
        engine.reg_write(arm.UC_ARM64_REG_SP, self._stack)
        engine.reg_write(arm.UC_ARM64_REG_X30, self._return)
        at, limit = self._function, time.thread_time() + self._timeout
        while at != self._return:
            # Unicorn's limit is by the clock: on a busy machine it stops what has hardly begun.
            left = limit - time.thread_time()
            if left <= 0:
                raise _Failed(Status.TIMEOUT, f"did not end within {self._timeout} s")
            try:
                engine.emu_start(at, self._return, timeout=max(int(left * 1e6), 1000))
            except unicorn.UcError as error:
                raise _Failed(Status.CRASHED, f"{error} at {self._where()}") from None
            at = engine.reg_read(arm.UC_ARM64_REG_PC)
        returned = engine.reg_read(arm.UC_ARM64_REG_X0) & 0xFFFF_FFFF
        if returned:
            raise _Failed(Status.CRASHED, f"{self._candidate.name}_run returned {returned}")
