"""Counting in Unicorn, where qemu is not installed. Slower by far, and without caches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import unicorn
from unicorn import arm64_const as arm

from mnv3c.bench.code import Code, read
from mnv3c.bench.segments import IDLE, MARKER_SYSTEM_CALL, Segment
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.runners import elf
from mnv3c.targets import Target

_IMAGE, _RETURN = 0x4000_0000, 0x1000_0000
_STACK_TOP, _STACK_BYTES = 0x2000_0000, 1 << 18
_MODELS = {"a53": arm.UC_CPU_ARM64_A53, "a72": arm.UC_CPU_ARM64_A72, "max": arm.UC_CPU_ARM64_MAX}


def count(shared_object: Path, path: str, core: Target) -> tuple[str, Code, list[Segment]]:
    """Run the harness's object and return the emulator's name, the code, and the segments.

    Raises:
        Mnv3cError: the path is ``i8mm``, whose instructions Unicorn does not have.
        CheckFailed: the program failed.
    """
    if path == "i8mm":
        raise Mnv3cError(
            "Unicorn has no i8mm instructions; install qemu (apt install qemu-user)", "path i8mm"
        )
    data = shared_object.read_bytes()
    image = elf.load(data, _IMAGE)
    engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    engine.ctl_set_cpu_model(_MODELS[core.unicorn_cpu])
    engine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # do not trap NEON
    for s in image.segments:
        engine.mem_map(s.address, len(s.data))
        engine.mem_write(s.address, s.data)
    engine.mem_map(_RETURN, elf.PAGE)
    engine.mem_map(_STACK_TOP - _STACK_BYTES, _STACK_BYTES)
    # The library asks for what its path needs; Unicorn's largest core has all of it.
    engine.mem_write(
        image.symbols["mnv3c_support_hwcap"], (1 << 0 | 1 << 1 | 1 << 12 | 1 << 20).to_bytes(8, "little")
    )
    found: list[Segment] = []
    entered: Counter[tuple[int, int]] = Counter()

    def on_block(_: unicorn.Uc, address: int, size: int, data: object) -> None:
        entered[address, size >> 2] += 1

    def on_interrupt(_: unicorn.Uc, number: int, data: object) -> None:
        if engine.reg_read(arm.UC_ARM64_REG_X8) != MARKER_SYSTEM_CALL:
            raise CheckFailed(f"the counted program raised exception {number}")
        if found:
            found[-1].blocks.update(entered)  # type: ignore[attr-defined]
        entered.clear()
        kind, argument = engine.reg_read(arm.UC_ARM64_REG_X0), engine.reg_read(arm.UC_ARM64_REG_X1)
        found.append(Segment(kind, argument, {}))

    engine.hook_add(unicorn.UC_HOOK_BLOCK, on_block)
    engine.hook_add(unicorn.UC_HOOK_INTR, on_interrupt)
    engine.reg_write(arm.UC_ARM64_REG_SP, _STACK_TOP)
    engine.reg_write(arm.UC_ARM64_REG_X30, _RETURN)
    try:
        engine.emu_start(image.symbols["mnv3c_bench_main"], _RETURN)
    except unicorn.UcError as error:
        at = image.where(engine.reg_read(arm.UC_ARM64_REG_PC))
        raise CheckFailed(f"the counted program failed in Unicorn at {at}: {error}") from None
    if not found or found[-1].kind != IDLE:
        raise CheckFailed("the counted program did not reach its end in Unicorn")
    return f"unicorn {unicorn.__version__}", read(data, _IMAGE), found
