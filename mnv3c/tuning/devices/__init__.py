"""Devices that tell what candidate kernels cost: a simulated core, this machine, real devices over RPC."""

from __future__ import annotations

import dataclasses
import re

from mnv3c import targets
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Device, Measurement, Progress, Status, Timing

__all__ = ["Candidate", "Device", "Measurement", "Progress", "Status", "Timing", "open_device", "with_cpus"]

SIMULATED, NATIVE = "simulated", "native"


def open_device(
    where: str, core: str | Target, *, cc: str | None = None, timing: Timing | None = None
) -> Device:
    """The device of a ``--device`` option.

    Args:
        where: ``simulated``, ``native``, ``rpc://HOST:PORT[/KEY]`` or ``tracker://HOST:PORT/KEY``; behind
            the last three ``?cpus=4,6-7`` names the cores of the device to run on.
        core: what candidates are built for, and what the simulated core simulates.
        cc: C compiler.
        timing: for devices with a clock.

    Raises:
        Mnv3cError: an unknown device, one that does not answer, a platform in place of a core, no compiler
            or emulator.
    """
    where, timing = with_cpus(where, timing or Timing())
    target = targets.get(core) if isinstance(core, str) else core
    if target.core is None:
        raise Mnv3cError(f"{target.name} is a platform; schedules are searched for a core", "--target")
    if where == SIMULATED:
        from mnv3c.tuning.devices.simulated import SimulatedDevice

        return SimulatedDevice(target, cc=cc)
    if where == NATIVE:
        from mnv3c.tuning.devices.native import NativeDevice

        return NativeDevice(target, cc=cc, timing=timing)
    if where.startswith(("rpc:", "tracker:")):
        from mnv3c.tuning.devices.rpc import RpcDevice

        device = RpcDevice(where, target, cc=cc, timing=timing)
        try:
            device.ping()  # its name says what it is, and a search should not begin without it
        except BaseException:
            device.close()
            raise
        return device
    known = f"{SIMULATED}, {NATIVE}, rpc://HOST:PORT, tracker://HOST:PORT/KEY"
    raise Mnv3cError(f"unknown device {where!r} (known: {known})", "--device")


_MOST_CPUS = 63


def with_cpus(where: str, timing: Timing) -> tuple[str, Timing]:
    """Cut ``?cpus=`` off an address and put it into the timing.

    Raises:
        Mnv3cError: it is not a list of cores.
    """
    where, mark, options = where.partition("?")
    if not mark:
        return where, timing
    match = re.fullmatch(r"cpus=(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", options)
    if match is None or where == SIMULATED:
        raise Mnv3cError(f"{options!r} is not cpus=4,6-7", "--device")
    cpus: set[int] = set()
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), min(int(last or first), _MOST_CPUS) + 1))
    if not cpus or max(cpus) >= _MOST_CPUS:
        raise Mnv3cError(f"{options!r}: cores are numbered from 0 to {_MOST_CPUS - 1}", "--device")
    return where, dataclasses.replace(timing, cpus=tuple(sorted(cpus)))
