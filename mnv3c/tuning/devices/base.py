"""What a search hands to a device and gets back."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mnv3c.codegen.library import Library as MadeLibrary
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import DTYPE_BYTES
from mnv3c.runners.library import Library as StoredLibrary

Progress = Callable[[int, int], None]  # measured, total


@dataclass(frozen=True)
class Tensor:
    """An input or output of a candidate, dense ``[height][width][channels]``."""

    shape: tuple[int, int, int]
    dtype: str

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2] * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One compiled form of one layer: a generated library of one path, and what it must compute.

    Attributes:
        key: the caller's own name for it; comes back in the measurement.
        name: of the library; prefixes its symbols.
        path: the one path that it carries.
        sources: names to contents of its C files and headers, those in the folder itself.
        arena_bytes: scratch memory of a run.
        constant_bytes: weights and tables of all its layers.
        inputs, outputs: of the library, in its order.
        data: bytes of each input.
        expected: bytes of each output, from the reference.
        layers: numbers of the layers whose cost counts, ascending; empty for the whole run. A one-layer
            network has others beside it, which only bring its tensors into the path's layout.
    """

    key: str
    name: str
    path: str
    sources: Mapping[str, str]
    arena_bytes: int
    constant_bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    data: tuple[bytes, ...]
    expected: tuple[bytes, ...]
    layers: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        key: str,
        library: MadeLibrary,
        inputs: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        layers: Sequence[int] = (),
    ) -> Candidate:
        """From ``codegen.library.build_library``, without writing it to disk.

        Raises:
            Mnv3cError: the library has several paths, or the arrays do not fit it.
        """
        texts = {n: c if isinstance(c, str) else "" for n, c in library.files.items() if "/" not in n}
        return cls._from(key, library.manifest, texts, inputs, expected, layers)

    @classmethod
    def from_folder(
        cls,
        key: str,
        library: StoredLibrary,
        inputs: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        layers: Sequence[int] = (),
    ) -> Candidate:
        """From a folder that ``mnv3c compile`` wrote. Raises as ``of``."""
        files = sorted((*library.directory.glob("*.c"), *library.directory.glob("*.h")))
        texts = {f.name: f.read_text(encoding="utf-8") for f in files}
        return cls._from(key, library.manifest, texts, inputs, expected, layers)

    @classmethod
    def _from(
        cls,
        key: str,
        manifest: Mapping[str, object],
        texts: Mapping[str, str],
        inputs: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        layers: Sequence[int],
    ) -> Candidate:
        name = str(manifest["name"])
        paths = tuple(str(p) for p in manifest["paths"])  # type: ignore[attr-defined]
        if len(paths) != 1:
            raise Mnv3cError(f"carries the paths {', '.join(paths)}; one is measured at a time", name)
        tensors: dict[str, tuple[Tensor, ...]] = {}
        for kind, arrays in (("inputs", inputs), ("outputs", expected)):
            entries: list[Mapping[str, object]] = manifest[kind]  # type: ignore[assignment]
            tensors[kind] = tuple(Tensor(tuple(e["shape"]), str(e["dtype"])) for e in entries)  # type: ignore[arg-type]
            given = tuple((tuple(a.shape), str(a.dtype)) for a in arrays)
            if given != tuple((t.shape, t.dtype) for t in tensors[kind]):
                raise Mnv3cError(f"{kind} {given} given, the library has {tensors[kind]}", name)
        return cls(
            key=key,
            name=name,
            path=paths[0],
            sources={n: t for n, t in texts.items() if n.endswith((".c", ".h"))},
            arena_bytes=int(manifest["arena_bytes"]),  # type: ignore[call-overload]
            constant_bytes=int(manifest["constant_bytes"]),  # type: ignore[call-overload]
            inputs=tensors["inputs"],
            outputs=tensors["outputs"],
            data=tuple(np.ascontiguousarray(a).tobytes() for a in inputs),
            expected=tuple(np.ascontiguousarray(a).tobytes() for a in expected),
            layers=tuple(layers),
        )


class Status(enum.Enum):
    """How a measurement ended. All but ``OK`` mean that the candidate has no cost."""

    OK = "ok"
    FAILED_TO_BUILD = "failed to build"
    CRASHED = "crashed"
    WRONG = "wrong result"
    TIMEOUT = "timeout"
    LOST = "lost"  # the device was gone, and did not come back in time


@dataclass(frozen=True)
class Measurement:
    """What a device says of one candidate.

    Attributes:
        key: the candidate's.
        cost: median of the repeats, in ``unit``; infinite where the status is not ``OK``.
        unit: ``s`` (on a device) or ``cycles`` (of a simulated core).
        spread: distance of the quartiles over the median; 0 for a simulated core.
        repeats: samples that the median is of.
        detail: what went wrong, one line.
        notes: what makes the figure doubtful: noise, throttling.
        clock: cycles a second of the core while it measured, 0 if unknown.
    """

    key: str
    status: Status
    cost: float = float("inf")
    unit: str = "s"
    spread: float = 0.0
    repeats: int = 0
    detail: str = ""
    notes: tuple[str, ...] = ()
    clock: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status is Status.OK


@dataclass(frozen=True)
class Timing:
    """How devices with a clock measure.

    Attributes:
        repeats: samples of a candidate; their median counts.
        sample_seconds: the least that a sample takes: a candidate runs as often as that needs.
        cool_down_seconds: pause before each candidate.
        timeout_seconds: of computing, for all of a candidate's runs together.
        cpus: numbers of the cores to run on; empty for the system's choice.
        noise: spread above which a measurement is repeated once and then noted.
        drift: change of the core's clock, or of the reference candidate, that is noted.
    """

    repeats: int = 15
    sample_seconds: float = 0.004
    cool_down_seconds: float = 0.01
    timeout_seconds: float = 10.0
    cpus: tuple[int, ...] = ()
    noise: float = 0.05
    drift: float = 0.05


class Device(Protocol):
    """Something that tells what candidates cost."""

    @property
    def name(self) -> str:
        """For people at this machine; says if the device is an emulated one."""
        ...

    @property
    def kind(self) -> str:
        """For records, which are passed on: what measures, without where it is to be reached."""
        ...

    @property
    def unit(self) -> str:
        """Of the costs, ``s`` or ``cycles``."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the costs of all batches so far doubtful: the device itself, noise, throttling."""
        ...

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        """Measure each candidate; one measurement a candidate, in order.

        A candidate that does not build, crashes, computes something else, does not end or loses its device
        gets a measurement that says so and costs the others nothing.

        Raises:
            Mnv3cError: nothing can be measured at all: no compiler, no such device.
        """
        ...

    def close(self) -> None:
        """Give back connections, processes and files."""
        ...


@dataclass(frozen=True)
class Raw:
    """What a device's shim reports (``templates/tuning/shim.c``).

    Attributes:
        code: 0 done, 1 crashed, 2 timeout, 3 refused, 4 no process, 5 bad call.
        detail: signal number or return value.
        clocks: cycles a second before and after the samples.
        cpu: number of the core at the end, -1 if unknown.
        samples: seconds a run.
        outputs: bytes of each output.
    """

    code: int
    detail: int = 0
    clocks: tuple[float, float] = (0.0, 0.0)
    cpu: int = -1
    samples: tuple[float, ...] = ()
    outputs: tuple[bytes, ...] = field(default=(), repr=False)


_SIGNALS = {
    4: "illegal instruction (does the core have the path's instructions?)",
    5: "trap",
    6: "abort",
    7: "bad memory access",
    8: "arithmetic fault",
    9: "killed by the system",
    11: "bad memory access",
}


def wrong_bytes(candidate: Candidate, outputs: Sequence[bytes]) -> str | None:
    """Where the outputs differ from what was expected, in one line; ``None`` if they do not."""
    for i, (got, expected) in enumerate(zip(outputs, candidate.expected, strict=True)):
        a, b = np.frombuffer(got, np.uint8), np.frombuffer(expected, np.uint8)
        if a.size != b.size:
            return f"output {i}: {a.size} bytes, expected {b.size}"
        differ = np.flatnonzero(a != b)
        if differ.size:
            at = int(differ[0])
            return f"output {i}: {differ.size} of {b.size} bytes differ, first at {at}: {a[at]}, not {b[at]}"
    return None


def judge(candidate: Candidate, raw: Raw, timing: Timing) -> Measurement:
    """A measurement from what a shim reported: checks the bytes, takes the median, looks for noise."""
    if raw.code == 1:
        what = _SIGNALS.get(raw.detail, f"signal {raw.detail}" if raw.detail else "the process ended")
        return Measurement(candidate.key, Status.CRASHED, detail=what)
    if raw.code == 2:
        return Measurement(
            candidate.key, Status.TIMEOUT, detail=f"did not end within {timing.timeout_seconds:g} s"
        )
    if raw.code == 3:
        return Measurement(
            candidate.key, Status.CRASHED, detail=f"{candidate.name}_run returned {raw.detail}"
        )
    if raw.code != 0:
        return Measurement(candidate.key, Status.LOST, detail="the device has no memory or process for it")
    wrong = wrong_bytes(candidate, raw.outputs)
    if wrong is not None:
        return Measurement(candidate.key, Status.WRONG, detail=wrong)
    median = statistics.median(raw.samples)
    low, _, high = statistics.quantiles(raw.samples, n=4) if len(raw.samples) > 1 else (median,) * 3
    spread = (high - low) / median if median else 0.0
    notes = []
    if spread > timing.noise:
        notes.append(f"noisy: the quartiles of the samples lie {spread:.0%} of the median apart")
    slower = _slowdown(raw)
    if slower > timing.drift:
        notes.append(f"the core's clock fell by {slower:.0%} while it measured: throttling")
    return Measurement(
        candidate.key,
        Status.OK,
        median,
        "s",
        spread,
        len(raw.samples),
        notes=tuple(notes),
        clock=max(raw.clocks),
    )


def _slowdown(raw: Raw) -> float:
    """By which part the clock fell, or the later half of the samples took longer, whichever is more."""
    before, after = raw.clocks
    fell = 1 - after / before if before > 0 else 0.0
    third = len(raw.samples) // 3
    if third >= 2:
        first, last = statistics.median(raw.samples[:third]), statistics.median(raw.samples[-third:])
        fell = max(fell, 1 - first / last if last > 0 else 0.0)
    return fell
