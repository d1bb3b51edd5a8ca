"""What all runners share: the interface, the faults they report, and the CPU that a path is run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mnv3c import targets
from mnv3c.camera import Frame
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.runners.library import Library

ARENA_ALIGN = 64
# The least CPU that a path is for. Running there shows that it uses no instruction beyond its set.
_LEAST_CORE = {"ref": "cortex-a53", "neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "cortex-a510"}
_BASE_FLAGS = "arm64"
_ARMV7 = "armv7"


class RunFault(CheckFailed):
    """The library misbehaved while it ran: an illegal instruction, a stray access, an error code."""


@dataclass(frozen=True)
class Cpu:
    """What to build for and what to run on.

    Attributes:
        core: the name in ``targets/`` whose emulator settings are used.
        flags: compiler kind to flags.
        arch: ``aarch64`` or ``armv7``.
    """

    core: str
    qemu: str
    unicorn: str
    features: tuple[str, ...]
    flags: dict[str, tuple[str, ...]]
    arch: str = "aarch64"


def cpu_for(library: Library, path: str, core: str | None = None) -> Cpu:
    """The CPU to build and run ``path`` for.

    A library for one core is built with that core's flags; one for a platform is built for the least
    Arm and runs on the least core that has the path's instructions.

    Args:
        core: run on this one instead.
    """
    if is_32_bit(library, path):
        if core is not None and core != _ARMV7:
            raise Mnv3cError(f"{core} is emulated in 64-bit mode, where this path does not run", "--core")
        least = targets.get(_ARMV7)
        return Cpu(
            least.qemu_cpu, least.qemu_cpu, least.unicorn_cpu, least.features, dict(least.flags), _ARMV7
        )
    known = library.target in targets.names()
    target = targets.get(library.target) if known else targets.get(_BASE_FLAGS)
    if core is not None:
        chosen = targets.get(core, "--cpu")
    else:
        chosen = target if target.core else targets.get(_LEAST_CORE.get(path, "cortex-a510"))
    flags = target.flags if target.core else targets.get(_BASE_FLAGS).flags
    return Cpu(chosen.name, chosen.qemu_cpu, chosen.unicorn_cpu, chosen.features, dict(flags))


def is_32_bit(library: Library, path: str) -> bool:
    """Whether ``path`` of that library is built for 32-bit Arm: ``armv7``, and ``ref`` for that target."""
    return _ARMV7 in (path, library.target)


class Runner(Protocol):
    """Runs one path of one library.

    Attributes:
        name: ``native``, ``host``, ``unicorn`` or ``qemu``.
        path: the path that runs.
        where: the CPU, for people.
        parallel: whether the next run hands in a ``parallel_for``, which works the shares of a layer
            last to first.
    """

    name: str
    path: str
    where: str
    parallel: bool

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """One inference: arrays ``(H, W, C)`` in the order of the manifest.

        Raises:
            Mnv3cError: an input has another shape or dtype.
            RunFault: the library failed; says how, on which CPU and path.
        """
        ...

    def run_camera(self, frame: Frame) -> list[np.ndarray]:
        """One inference of a camera's frame; raises as ``run``, also where the library has no such camera."""
        ...

    def camera_image(self, frame: Frame) -> np.ndarray:
        """The network's input that the library makes of a frame; raises as ``run_camera``."""
        ...

    def close(self) -> None:
        """Give back memory and temporary files."""
        ...


def junk(bytes_: int, seed: int) -> np.ndarray:
    """What memory holds before a run: a result that depends on it differs from run to run."""
    return np.random.default_rng(seed).integers(0, 256, bytes_, dtype=np.uint8)
