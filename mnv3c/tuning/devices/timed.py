"""What devices with a clock share: the call of the shim, and what is done about noise."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mnv3c.tuning.devices.base import Candidate, Measurement, Raw, Status, Timing, judge

# Of templates/tuning/shim.c: numbers before the samples in a report; time-outs by the clock, where what a
# candidate computes cannot be read or does not go on.
REPORT_FIRST = 8
WALL = 5
_ALIGN = 64
_EMULATED = 1 << 32
# Main ID register, implementer 0x41 (Arm), part number to core: the cores' technical reference manuals.
_PARTS = {
    0xD03: "cortex-a53",
    0xD04: "cortex-a35",
    0xD05: "cortex-a55",
    0xD07: "cortex-a57",
    0xD08: "cortex-a72",
    0xD09: "cortex-a73",
    0xD0A: "cortex-a75",
    0xD0B: "cortex-a76",
    0xD0C: "neoverse-n1",
    0xD0D: "cortex-a77",
    0xD40: "neoverse-v1",
    0xD41: "cortex-a78",
    0xD44: "cortex-x1",
    0xD46: "cortex-a510",
    0xD47: "cortex-a710",
    0xD48: "cortex-x2",
    0xD49: "neoverse-n2",
    0xD4D: "cortex-a715",
    0xD4E: "cortex-x3",
}


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a device says of itself.

    Attributes:
        core: as in ``targets/`` where we know it, ``core 0x...`` where we do not; empty where it is silent.
        emulated: another machine emulates it: its times say nothing about a core.
    """

    core: str
    emulated: bool


def identity(answer: int) -> Identity:
    """From what ``mnv3c_identify`` returns."""
    midr = answer & 0xFFFFFFFF
    part = midr >> 4 & 0xFFF
    core = _PARTS.get(part, f"core {part:#x}") if midr >> 24 == 0x41 else f"core {midr:#x}" if midr else ""
    return Identity(core, bool(answer & _EMULATED))


def settings(timing: Timing) -> list[int]:
    """``SET_*`` of the shim."""
    nanoseconds = [timing.sample_seconds, timing.timeout_seconds, timing.cool_down_seconds]
    return [timing.repeats, *(round(s * 1e9) for s in nanoseconds), cpu_mask(timing.cpus)]


def cpu_mask(cpus: Sequence[int]) -> int:
    return sum(1 << cpu for cpu in set(cpus))


def packed_inputs(candidate: Candidate) -> bytes:
    """All inputs as the shim reads them."""
    return b"".join(data + bytes(-len(data) % _ALIGN) for data in candidate.data)


def output_bytes(candidate: Candidate) -> int:
    """What the shim writes for all outputs."""
    return sum(t.bytes + -t.bytes % _ALIGN for t in candidate.outputs)


def raw(candidate: Candidate, code: int, report: Sequence[float], data: bytes) -> Raw:
    """From the shim's status, report and outputs."""
    outputs, at = [], 0
    if code == 0:
        for t in candidate.outputs:
            outputs.append(data[at : at + t.bytes])
            at += t.bytes + -t.bytes % _ALIGN
    samples = tuple(report[REPORT_FIRST : REPORT_FIRST + int(report[5])]) if code == 0 else ()
    return Raw(code, int(report[4]), (report[1], report[2]), int(report[3]), samples, tuple(outputs))


def steady(candidate: Candidate, call: Callable[[Timing], Raw], timing: Timing) -> Measurement:
    """Measure; where the result is doubtful, once more after a longer pause, and take the better one.

    Args:
        call: runs the shim for the candidate.
    """
    first = judge(candidate, call(timing), timing)
    if not first.notes:
        return first
    longer = dataclasses.replace(timing, cool_down_seconds=max(0.5, 10 * timing.cool_down_seconds))
    second = judge(candidate, call(longer), timing)
    if not second.ok:
        return second
    return second if (len(second.notes), second.spread) < (len(first.notes), first.spread) else first


def with_drift(
    measurements: Sequence[Measurement], reference: Measurement, again: Measurement, timing: Timing
) -> list[Measurement]:
    """Note on all of a batch that its reference candidate changed between begin and end."""
    if not (reference.ok and again.ok):
        return list(measurements)
    change = again.cost / reference.cost - 1
    if abs(change) <= max(timing.drift, reference.spread, again.spread):
        return list(measurements)
    word = "slower" if change > 0 else "faster"
    note = f"the device drifts: a known candidate was {abs(change):.0%} {word} at the end of the batch"
    return [
        dataclasses.replace(m, notes=(*m.notes, note)) if m.status is Status.OK else m for m in measurements
    ]


class Doubts:
    """Counts what devices noted on measurements, for one line at the end of a search."""

    _KINDS = ("noisy", "throttling", "drifts")

    def __init__(self) -> None:
        self._measured = 0
        self._noted: Counter[str] = Counter()

    def add(self, measurements: Iterable[Measurement]) -> None:
        for m in measurements:
            self._measured += 1
            self._noted.update(kind for kind in self._KINDS if any(kind in note for note in m.notes))

    @property
    def notes(self) -> tuple[str, ...]:
        words = {
            "noisy": "were noisy: close other programs",
            "throttling": "fell into throttling: cool the device, or raise the pause between candidates",
            "drifts": "are of batches at whose end a known candidate took another time than at the begin",
        }
        return tuple(
            f"{self._noted[kind]} of {self._measured} measurements {words[kind]}"
            for kind in self._KINDS
            if self._noted[kind]
        )
