"""The simulated core: a batch runs once under an emulator that counts, and the counts are priced."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3c import resources, toolchain
from mnv3c.bench import code as machine_code
from mnv3c.bench import llvm, qemu, segments
from mnv3c.bench.segments import Memory, Segment
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Measurement, Progress, Status, wrong_bytes
from mnv3c.tuning.devices.bundle import Builder
from mnv3c.tuning.devices.prices import PriceList
from mnv3c.tuning.devices.tables import TablePrices
from mnv3c.tuning.devices.timed import output_bytes, packed_inputs

# At a fixed address, constants apart from the code.
_LINK = ("-static", "-fno-pie", "-no-pie", "-Wl,-z,separate-code")
_HEAD = struct.Struct("<ii")
_TIMEOUT_SIGNAL = 14  # SIGALRM
_SIGNALS = {4: "illegal instruction", 7: "bad memory access", 8: "arithmetic fault", 11: "bad memory access"}


@dataclass(frozen=True)
class Simulation:
    """What one candidate executed in the steady state, for reports; see ``docs/performance.md``.

    Attributes:
        instructions: of the layers that count.
        pipeline_cycles: if every access hit the first-level cache.
        memory: accesses and line fills.
    """

    instructions: int
    pipeline_cycles: float
    memory: Memory


class SimulatedDevice:
    """Costs are cycles: blocks by LLVM's model of the core, else by the tables of ``targets/``, and line
    fills by the core's penalties.

    What is measured beside a candidate, or before it, changes its cost by no more than a few line fills.
    """

    unit = "cycles"

    def __init__(self, core: Target, *, cc: str | None = None, timeout_seconds: int = 30) -> None:
        """Args:
        core: to build for and to simulate.
        timeout_seconds: for the emulated runs of one candidate.

        Raises:
            Mnv3cError: a platform, or a compiler or qemu is missing.
        """
        if core.core is None:
            raise Mnv3cError(f"{core.name} is a platform; cycles are those of a core", "--target")
        if qemu.available() is None:
            raise Mnv3cError("not installed (Debian, Ubuntu: apt install qemu-user)", "qemu-aarch64")
        self.core = core
        self._cache = core.core.cache
        self.name = f"simulated {core.name}"
        self._timeout = timeout_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-tune-")
        compiler = toolchain.find("aarch64", cc)
        self.compiler = compiler
        flags = core.flags.get(compiler.kind, ())
        self._builder = Builder(compiler, flags, Path(self._folder.name), align_constants=True)
        source = resources.directory("templates") / "tuning" / "simulated.c"
        self._harness = self._builder.own_object(source)
        self._prices = PriceList(core) if llvm.tools() is not None else TablePrices(core)
        self._batches = 0
        self.simulations: dict[str, Simulation] = {}
        self._try()

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Device.notes``: a simulation has no noise."""
        if isinstance(self._prices, PriceList):
            return ()
        return ("costs are coarse: LLVM's tools are not installed (Debian, Ubuntu: apt install llvm)",)

    @property
    def method(self) -> str:
        """How cycles are estimated, for people and records."""
        return self._prices.method

    def _try(self) -> None:
        """A run without candidates: what ails the emulator must not be taken for a candidate's fault."""
        program = Path(self._folder.name, "trial")
        self._builder.program(program, self._harness, _LINK)
        done = qemu.count_some(
            program, self.core.qemu_cpu, ("/dev/null", f"{program}.results", "0", "0", "5")
        )
        program.unlink()
        if done.code or not done.segments:
            reason = done.message or f"ended with {done.code}"
            raise Mnv3cError(f"cannot count a program: {reason}", "qemu-aarch64")

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        """See ``Device.measure``. ``simulations`` has the details of this batch afterwards, by key."""
        self.simulations = {}
        built = self._builder.objects(batch)
        self._batches += 1
        program = Path(self._folder.name, f"batch-{self._batches}")
        numbers, unlinked = self._builder.link(batch, built, program, (self._harness,), _LINK)
        results: dict[int, Measurement] = {
            i: Measurement(batch[i].key, Status.FAILED_TO_BUILD, unit=self.unit, detail=reason)
            for i, reason in {**built.failures, **unlinked}.items()
        }
        if numbers:
            places = {number: place for place, number in numbers.items()}
            for number, measurement in self._run(program, [batch[places[n]] for n in sorted(places)]).items():
                results[places[number]] = measurement
            program.unlink()
        if progress is not None:
            progress(len(batch), len(batch))
        return [results[i] for i in range(len(batch))]

    def _run(self, program: Path, candidates: Sequence[Candidate]) -> dict[int, Measurement]:
        """Run all candidates of a program; by their numbers."""
        inputs = program.with_suffix(".inputs")
        inputs.write_bytes(_input_file(candidates))
        size = -(-len(candidates) // min(len(candidates), os.cpu_count() or 1))
        ranges = [(i, min(i + size, len(candidates))) for i in range(0, len(candidates), size)]
        with ThreadPoolExecutor(max_workers=len(ranges)) as pool:
            parts = list(pool.map(lambda r: self._range(program, inputs, candidates, *r), ranges))
        inputs.unlink()
        results: dict[int, Measurement] = {}
        counted: dict[int, list[Segment]] = {}
        for measurements, found in parts:
            results.update(measurements)
            counted.update(found)
        code = machine_code.read(program.read_bytes())
        order = sorted(counted)
        counts = [_counts(code, counted[n]) for n in order]
        for number, cycles, executed in zip(order, self._prices.cycles(code, counts), counts, strict=True):
            memory = sum((s.memory for s in counted[number] if s.memory), Memory(0, 0, 0, 0, 0, 0))
            key = candidates[number].key
            self.simulations[key] = Simulation(int(executed.sum()), cycles, memory)
            cost = cycles + self._waiting(memory)
            results[number] = Measurement(key, Status.OK, cost, self.unit, repeats=1)
        return results

    def _waiting(self, memory: Memory) -> float:
        """Cycles lost to line fills."""
        c = self._cache
        return memory.l1_fills * c.l1_miss_cycles + memory.l2_fills * c.l2_miss_cycles

    def _range(
        self, program: Path, inputs: Path, candidates: Sequence[Candidate], first: int, last: int
    ) -> tuple[dict[int, Measurement], dict[int, list[Segment]]]:
        """Run candidates ``first`` to ``last``; those that fail, and the counts of those that are right."""
        failed: dict[int, Measurement] = {}
        counted: dict[int, list[Segment]] = {}
        results = program.with_suffix(f".results-{first}")
        begin = first
        while begin < last:
            results.unlink(missing_ok=True)
            arguments = (str(inputs), str(results), str(begin), str(last), str(self._timeout))
            done = qemu.count_some(
                program,
                self.core.qemu_cpu,
                arguments,
                l1=(self._cache.l1d_kib << 10, self._cache.l1d_ways),
                l2=(self._cache.l2_kib << 10, self._cache.l2_ways),
            )
            returned = _returned(results.read_bytes() if results.exists() else b"", candidates)
            of = _by_candidate(done.segments, begin)
            for number, (status, outputs) in returned.items():
                candidate = candidates[number]
                wrong = wrong_bytes(candidate, outputs)
                if status:
                    detail = f"{candidate.name}_run returned {status}"
                    failed[number] = self._failed(candidate, Status.CRASHED, detail)
                elif wrong is not None:
                    failed[number] = self._failed(candidate, Status.WRONG, wrong)
                else:
                    counted[number] = of[number]
            begin += len(returned)
            if begin < last:
                failed[begin] = self._ended(candidates[begin], done)
                begin += 1
        results.unlink(missing_ok=True)
        return failed, counted

    def _failed(self, candidate: Candidate, status: Status, detail: str) -> Measurement:
        return Measurement(candidate.key, status, unit=self.unit, detail=detail)

    def _ended(self, candidate: Candidate, done: qemu.Counted) -> Measurement:
        """Of the candidate that the emulated program ended in."""
        number = -done.code if done.code < 0 else done.code - 128
        if number == _TIMEOUT_SIGNAL:
            return self._failed(candidate, Status.TIMEOUT, f"did not end within {self._timeout} s")
        what = _SIGNALS.get(number, done.message or f"ended with {done.code}")
        return self._failed(candidate, Status.CRASHED, what)

    def close(self) -> None:
        """Remove temporary files."""
        self._folder.cleanup()


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


def _counts(code: machine_code.Code, found: Sequence[Segment]) -> np.ndarray:
    total = np.zeros(len(code.words), np.int64)
    for segment in found:
        total += machine_code.instruction_counts(code, segment.blocks)
    return total
