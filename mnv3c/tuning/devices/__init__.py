"""Devices that tell what candidate kernels cost: a simulated core, this machine, real devices over RPC."""

from __future__ import annotations

from mnv3c import targets
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Device, Measurement, Progress, Status, Timing

__all__ = ["Candidate", "Device", "Measurement", "Progress", "Status", "Timing", "open_device"]

SIMULATED, NATIVE = "simulated", "native"


def open_device(
    where: str, core: str | Target, *, cc: str | None = None, timing: Timing | None = None
) -> Device:
    """The device of a ``--device`` option.

    Args:
        where: ``simulated``, ``native``, ``rpc://HOST:PORT[/KEY]`` or ``tracker://HOST:PORT/KEY``.
        core: what candidates are built for, and what the simulated core simulates.
        cc: C compiler.
        timing: for devices with a clock.

    Raises:
        Mnv3cError: an unknown device, a platform in place of a core, no compiler or emulator.
    """
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

        return RpcDevice(where, target, cc=cc, timing=timing)
    known = f"{SIMULATED}, {NATIVE}, rpc://HOST:PORT, tracker://HOST:PORT/KEY"
    raise Mnv3cError(f"unknown device {where!r} (known: {known})", "--device")
