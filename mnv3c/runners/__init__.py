"""Runners execute a generated library: emulated in process, under qemu, or on this machine."""

from __future__ import annotations

from mnv3c.errors import Mnv3cError
from mnv3c.runners.base import RunFault, Runner, is_32_bit
from mnv3c.runners.library import Library, TensorInfo, open_library
from mnv3c.toolchain.compiler import host_is_arm

KINDS = ("auto", "native", "host", "unicorn", "qemu")

__all__ = ["KINDS", "Library", "RunFault", "Runner", "TensorInfo", "open_library", "open_runner"]


def open_runner(
    library: Library,
    path: str,
    kind: str = "auto",
    *,
    core: str | None = None,
    cc: str | None = None,
    parallel: bool = False,
) -> Runner:
    """Build ``path`` of a library and make it ready to run.

    Args:
        kind: ``native`` (an Arm machine), ``host`` (the ``ref`` path on any machine), ``unicorn``,
            ``qemu``, or ``auto``: native on an Arm machine, qemu for ``i8mm`` and 32-bit Arm, else Unicorn.
        core: the CPU to emulate, from ``targets/``.
        cc: C compiler to use.
        parallel: hand in a ``parallel_for``, which runs the shares of a layer in reverse order.

    Raises:
        Mnv3cError: the path is not in the library, or cannot be built or run here.
    """
    if path not in library.paths:
        raise Mnv3cError(
            f"the library has no path {path!r} (it has {', '.join(library.paths)})", library.name
        )
    if is_32_bit(library, path):
        if kind not in ("auto", "qemu", "host"):
            raise Mnv3cError("32-bit Arm runs under qemu; use qemu", f"--runner {kind}")
        kind = "qemu" if kind == "auto" else kind
    elif kind == "auto":
        kind = "native" if host_is_arm() and core is None else "qemu" if path == "i8mm" else "unicorn"
    if kind == "native":
        if not host_is_arm():
            raise Mnv3cError("this machine is not a 64-bit Arm; use unicorn or qemu", "--runner native")
        return _process(library, path, emulate=False, core=core, cc=cc, parallel=parallel)
    if kind == "qemu":
        return _process(library, path, emulate=True, core=core, cc=cc, parallel=parallel)
    if kind == "host":
        from mnv3c.runners.host import HostRunner

        return HostRunner(library, path, cc=cc, parallel=parallel)
    if kind == "unicorn":
        from mnv3c.runners.emulated import UnicornRunner

        return UnicornRunner(library, path, core=core, cc=cc, parallel=parallel)
    raise Mnv3cError(f"unknown runner {kind!r} (known: {', '.join(KINDS)})", "--runner")


def _process(
    library: Library, path: str, *, emulate: bool, core: str | None, cc: str | None, parallel: bool
) -> Runner:
    from mnv3c.runners.process import ProcessRunner

    return ProcessRunner(library, path, emulate=emulate, core=core, cc=cc, parallel=parallel)
