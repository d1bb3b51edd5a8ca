"""Counting a batch under ``qemu-aarch64``: one static program, a process for each of the host's CPUs."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mnv3c import resources
from mnv3c.bench import code as machine_code
from mnv3c.bench import qemu, segments
from mnv3c.bench.code import Code
from mnv3c.bench.segments import Segment
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Status, wrong_bytes
from mnv3c.tuning.devices.bundle import Builder, Built
from mnv3c.tuning.devices.timed import output_bytes, packed_inputs

# At a fixed address, constants apart from the code.
_LINK = ("-static", "-fno-pie", "-no-pie", "-Wl,-z,separate-code")
_SLACK_SECONDS, _WALL = 600, 10  # by the clock: once, and for each second of a candidate's time-out
_HEAD = struct.Struct("<ii")
_TIMEOUT_SIGNAL = 27  # SIGPROF
_SIGNALS = {4: "illegal instruction", 7: "bad memory access", 8: "arithmetic fault", 11: "bad memory access"}


@dataclass(eq=False)
class Counts:
    """What an emulator found of a program's candidates, by their numbers.

    Attributes:
        failed: how and why.
        segments: of those that are right, what they executed in the steady state.
    """

    code: Code
    failed: dict[int, tuple[Status, str]] = field(default_factory=dict)
    segments: dict[int, list[Segment]] = field(default_factory=dict)


class QemuBatch:
    """Builds and runs batches for one core; caches are simulated."""

    caches = True

    def __init__(self, core: Target, builder: Builder, folder: Path, timeout_seconds: int) -> None:
        """Raises:
        Mnv3cError: qemu cannot count.
        """
        assert core.core is not None
        self._core, self._cache, self._builder, self._timeout = (
            core,
            core.core.cache,
            builder,
            timeout_seconds,
        )
        self._harness = builder.own_object(resources.directory("templates") / "tuning" / "simulated.c")
        # What ails the emulator must not be taken for a candidate's fault.
        program = folder / "trial"
        builder.program(program, self._harness, _LINK)
        done = qemu.count_some(program, core.qemu_cpu, ("/dev/null", f"{program}.results", "0", "0", "5"))
        program.unlink()
        if done.code or not done.segments:
            reason = done.message or f"ended with {done.code}"
            raise Mnv3cError(f"cannot count a program: {reason}", "qemu-aarch64")

    def link(
        self, batch: Sequence[Candidate], built: Built, target: Path
    ) -> tuple[dict[int, int], dict[int, str]]:
        """As ``Builder.link``."""
        return self._builder.link(batch, built, target, (self._harness,), _LINK)

    def run(self, program: Path, candidates: Sequence[Candidate]) -> Counts:
        """Run all candidates of a program."""
        inputs = program.with_suffix(".inputs")
        inputs.write_bytes(_input_file(candidates))
        size = -(-len(candidates) // min(len(candidates), os.cpu_count() or 1))
        ranges = [(i, min(i + size, len(candidates))) for i in range(0, len(candidates), size)]
        counts, stop = Counts(machine_code.read(program.read_bytes())), qemu.Stop()
        with ThreadPoolExecutor(max_workers=len(ranges)) as pool:
            try:
                list(pool.map(lambda r: self._range(program, inputs, candidates, counts, stop, *r), ranges))
            except BaseException:
                stop.now()  # an interrupt does not wait for candidates
                raise
        inputs.unlink()
        return counts

    def _range(
        self,
        program: Path,
        inputs: Path,
        candidates: Sequence[Candidate],
        counts: Counts,
        stop: qemu.Stop,
        first: int,
        last: int,
    ) -> None:
        """Run candidates from ``first`` until ``last``; one that ends the process is left out and the rest
        goes on in another."""
        results = program.with_suffix(f".results-{first}")
        begin = first
        while begin < last and not stop.asked:
            results.unlink(missing_ok=True)
            arguments = (str(inputs), str(results), str(begin), str(last), str(self._timeout))
            done = qemu.count_some(
                program,
                self._core.qemu_cpu,
                arguments,
                l1=(self._cache.l1d_kib << 10, self._cache.l1d_ways),
                l2=(self._cache.l2_kib << 10, self._cache.l2_ways),
                # The program ends what computes for too long; this is for what it does not end.
                seconds=_SLACK_SECONDS + _WALL * self._timeout * (last - begin),
                stop=stop,
            )
            returned = _returned(results.read_bytes() if results.exists() else b"", candidates)
            of = _by_candidate(done.segments, begin)
            for number, (status, outputs) in returned.items():
                candidate = candidates[number]
                wrong = wrong_bytes(candidate, outputs)
                if status:
                    detail = f"{candidate.name}_run returned {status}"
                    counts.failed[number] = (Status.CRASHED, detail)
                elif wrong is not None:
                    counts.failed[number] = (Status.WRONG, wrong)
                else:
                    counts.segments[number] = of[number]
            begin += len(returned)
            if begin < last:
                counts.failed[begin] = self._ended(done)
                begin += 1
        results.unlink(missing_ok=True)

    def _ended(self, done: qemu.Counted) -> tuple[Status, str]:
        """How the candidate failed that the emulated program ended in."""
        number = -done.code if done.code < 0 else done.code - 128
        if number == _TIMEOUT_SIGNAL:
            return Status.TIMEOUT, f"did not end within {self._timeout} s"
        return Status.CRASHED, _SIGNALS.get(number, done.message or f"ended with {done.code}")


def _input_file(candidates: Sequence[Candidate]) -> bytes:
    """As ``templates/tuning/simulated.c`` reads it; candidates of one layer share their inputs."""
    offset = 8 * len(candidates) + -8 * len(candidates) % 64
    places: dict[str, int] = {}
    table, blobs = [], []
    for candidate in candidates:
        data = packed_inputs(candidate)
        digest = hashlib.sha256(data).hexdigest()
        if digest not in places:
            places[digest] = offset
            blobs.append(data)
            offset += len(data)
        table.append(places[digest])
    head = struct.pack(f"<{len(table)}q", *table)
    return b"".join([head, bytes(-len(head) % 64), *blobs])


def _returned(data: bytes, candidates: Sequence[Candidate]) -> dict[int, tuple[int, tuple[bytes, ...]]]:
    """Number to status and outputs, of the candidates that returned."""
    found, at = {}, 0
    while at + _HEAD.size <= len(data):
        number, status = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        candidate = candidates[number]
        if at + output_bytes(candidate) > len(data):
            break
        outputs = []
        for t in candidate.outputs:
            outputs.append(data[at : at + t.bytes])
            at += t.bytes + -t.bytes % 64
        found[number] = (status, tuple(outputs))
    return found


def _by_candidate(found: Sequence[Segment], first: int) -> Mapping[int, list[Segment]]:
    """The segments that count, of each candidate: a marker precedes each."""
    of: dict[int, list[Segment]] = {}
    current = first
    for segment in found:
        if segment.kind == segments.IDLE:
            current = segment.argument
            of.setdefault(current, [])
        elif segment.kind == segments.RUN:
            of[current].append(segment)
    return of
