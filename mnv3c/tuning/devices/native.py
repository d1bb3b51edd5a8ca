"""Measuring on this machine: any path on a 64-bit Arm host, the portable ``ref`` path on any host."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnv3c import toolchain
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.toolchain.compiler import host_is_arm
from mnv3c.tuning.devices import timed
from mnv3c.tuning.devices.base import Candidate, Measurement, Progress, Raw, Status, Timing
from mnv3c.tuning.devices.bundle import Builder

_POINTERS = [ctypes.c_void_p] * 4


class NativeDevice:
    """Loads a batch into this process; each candidate runs in a child of it, so that a crash is its own."""

    unit = "s"

    def __init__(self, core: Target, *, cc: str | None = None, timing: Timing | None = None) -> None:
        """Args:
        core: what to build for on an Arm host.

        Raises:
            Mnv3cError: there is no C compiler for this machine.
        """
        self.timing = timing or Timing()
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-tune-")
        compiler = toolchain.find("host", cc)
        flags = core.flags.get(compiler.kind, ()) if host_is_arm() else ()
        self._builder = Builder(compiler, flags, Path(self._folder.name))
        self._batches = 0
        self._identity: timed.Identity | None = None
        self._doubts = timed.Doubts()

    @property
    def name(self) -> str:
        core = self._identity.core if self._identity else ""
        return f"this machine ({core})" if core else "this machine"

    @property
    def kind(self) -> str:
        """See ``Device.kind``."""
        core = self._identity.core if self._identity else ""
        return f"device, {core}" if core else "device"

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Device.notes``."""
        return self._doubts.notes

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        """See ``Device.measure``."""
        if not host_is_arm():
            for candidate in batch:
                if candidate.path != "ref":
                    raise Mnv3cError("this machine is not a 64-bit Arm: only ref runs", candidate.path)
        built = self._builder.objects(batch)
        self._batches += 1
        target = Path(self._folder.name, f"batch-{self._batches}.so")
        numbers, unlinked = self._builder.shared_object(batch, built, target, hosted=True)
        failures = {**built.failures, **unlinked}
        results: list[Measurement] = []
        shim = ctypes.CDLL(str(target)) if numbers else None
        target.unlink(missing_ok=True)
        if shim is not None and self._identity is None:
            shim.mnv3c_identify.restype = ctypes.c_int64
            self._identity = timed.identity(
                shim.mnv3c_identify(ctypes.c_int64(timed.cpu_mask(self.timing.cpus)))
            )
        for i, candidate in enumerate(batch):
            if shim is None or i not in numbers:
                results.append(Measurement(candidate.key, Status.FAILED_TO_BUILD, detail=failures[i]))
            else:
                results.append(self._one(shim, numbers[i], candidate))
            if progress is not None:
                progress(i + 1, len(batch))
        first = next((i for i, m in enumerate(results) if m.ok), None)
        if shim is not None and first is not None and len(batch) > 1:
            again = self._one(shim, numbers[first], batch[first])
            results = timed.with_drift(results, results[first], again, self.timing)
        self._doubts.add(results)
        return results

    def _one(self, shim: ctypes.CDLL, number: int, candidate: Candidate) -> Measurement:
        source = np.frombuffer(timed.packed_inputs(candidate), np.uint8)
        sink = np.zeros(timed.output_bytes(candidate), np.uint8)
        shim.mnv3c_measure.argtypes = [ctypes.c_int64, *_POINTERS]

        def call(timing: Timing) -> Raw:
            report = np.zeros(timed.REPORT_FIRST + timing.repeats)
            numbers = np.array(timed.settings(timing), np.int64)
            pointers = (a.ctypes.data for a in (source, sink, report, numbers))
            code = shim.mnv3c_measure(number, *pointers)
            return timed.raw(candidate, code, report.tolist(), sink.tobytes())

        return timed.steady(candidate, call, self.timing)

    def close(self) -> None:
        """Remove temporary files."""
        self._folder.cleanup()
