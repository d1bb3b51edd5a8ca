"""The simulated core: a batch runs once under an emulator that counts, and the counts are priced."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3c import toolchain
from mnv3c.bench import code as machine_code
from mnv3c.bench import llvm, qemu
from mnv3c.bench.segments import Memory, Segment
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices.base import Candidate, Measurement, Progress, Status
from mnv3c.tuning.devices.bundle import Builder
from mnv3c.tuning.devices.prices import PriceList
from mnv3c.tuning.devices.qemu_batch import QemuBatch
from mnv3c.tuning.devices.tables import TablePrices
from mnv3c.tuning.devices.unicorn_batch import UnicornBatch


@dataclass(frozen=True)
class Simulation:
    """What one candidate executed in the steady state, for reports; see ``docs/performance.md``.

    Attributes:
        instructions: of the layers that count.
        pipeline_cycles: if every access hit the first-level cache.
        memory: accesses and line fills.
        executed: instruction words to how often they were executed.
    """

    instructions: int
    pipeline_cycles: float
    memory: Memory
    executed: Mapping[int, int]


class SimulatedDevice:
    """Costs are cycles: blocks by LLVM's model of the core, else by the tables of ``targets/``, and line
    fills by the core's penalties.

    What is measured beside a candidate, or before it, changes its cost by no more than a few line fills.
    """

    unit = "cycles"

    def __init__(self, core: Target, *, cc: str | None = None, timeout_seconds: int = 30) -> None:
        """Args:
        core: to build for and to simulate.
        timeout_seconds: of this machine's computing, for the emulated runs of one candidate.

        Raises:
            Mnv3cError: a platform, or there is no compiler, or an emulator that does not work.
        """
        if core.core is None:
            raise Mnv3cError(f"{core.name} is a platform; cycles are those of a core", "--target")
        self.core = core
        self._cache = core.core.cache
        self.name = f"simulated {core.name}"
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-tune-")
        compiler = toolchain.find("aarch64", cc)
        self.compiler = compiler
        flags = core.flags.get(compiler.kind, ())
        self._builder = Builder(compiler, flags, Path(self._folder.name), align_constants=True)
        self._prices = PriceList(core) if llvm.tools() is not None else TablePrices(core)
        make = QemuBatch if qemu.available() is not None else UnicornBatch
        self._emulator: QemuBatch | UnicornBatch = make(
            core, self._builder, Path(self._folder.name), timeout_seconds
        )
        self._batches = 0
        self.simulations: dict[str, Simulation] = {}

    @property
    def kind(self) -> str:
        """See ``Device.kind``."""
        return self.name

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Device.notes``: a simulation has no noise."""
        found = []
        if not isinstance(self._prices, PriceList):
            found.append(
                "costs are coarse: LLVM's tools are not installed (Debian, Ubuntu: apt install llvm)"
            )
        if not self._emulator.caches:
            found.append("costs are without line fills: qemu is not installed (apt install qemu-user)")
        return tuple(found)

    @property
    def method(self) -> str:
        """How cycles are estimated, for people and records."""
        return self._prices.method

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        """See ``Device.measure``. ``simulations`` has the details of this batch afterwards, by key."""
        self.simulations = {}
        built = self._builder.objects(batch)
        self._batches += 1
        program = Path(self._folder.name, f"batch-{self._batches}")
        numbers, unlinked = self._emulator.link(batch, built, program)
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
        """Run and price all candidates of a program; by their numbers."""
        found = self._emulator.run(program, candidates)
        results = {
            number: Measurement(candidates[number].key, status, unit=self.unit, detail=detail)
            for number, (status, detail) in found.failed.items()
        }
        order = sorted(found.segments)
        counts = [_counts(found.code, found.segments[n]) for n in order]
        priced = self._prices.cycles(found.code, counts)
        for number, cycles, executed in zip(order, priced, counts, strict=True):
            memories = (s.memory for s in found.segments[number] if s.memory)
            memory = sum(memories, Memory(0, 0, 0, 0, 0, 0))
            key = candidates[number].key
            self.simulations[key] = Simulation(
                int(executed.sum()), cycles, memory, _by_word(found.code, executed)
            )
            cost = cycles + self._waiting(memory)
            results[number] = Measurement(key, Status.OK, cost, self.unit, repeats=1)
        return results

    def _waiting(self, memory: Memory) -> float:
        """Cycles lost to line fills."""
        c = self._cache
        return memory.l1_fills * c.l1_miss_cycles + memory.l2_fills * c.l2_miss_cycles

    def close(self) -> None:
        """Remove temporary files."""
        self._folder.cleanup()


def _by_word(code: machine_code.Code, counts: np.ndarray) -> dict[int, int]:
    ran = np.flatnonzero(counts)
    words, which = np.unique(code.words[ran], return_inverse=True)
    sums = np.zeros(len(words), np.int64)
    np.add.at(sums, which, counts[ran])
    return dict(zip(words.tolist(), sums.tolist(), strict=True))


def _counts(code: machine_code.Code, found: Sequence[Segment]) -> np.ndarray:
    total = np.zeros(len(code.words), np.int64)
    for segment in found:
        total += machine_code.instruction_counts(code, segment.blocks)
    return total
