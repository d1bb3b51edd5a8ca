"""Cycles of a block on an in-order core: issue in order, as soon as operands and a unit are there.

``llvm-mca`` lets an in-order core retire in order too, so that a short load waits behind a long
multiply; the real cores do not, and its figures are two to three times too high for tuned kernels.
This model takes LLVM's latencies and units alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from mnv3c.bench.llvm import Timing, Use
from mnv3c.bench.operands import Operands, parse

# Cycles after which the accumulator of a multiply-accumulate may be that of the next one of its kind,
# and after which an updated address register may be used (Cortex-A53 and Cortex-A55 Software
# Optimization Guides, "accumulator forwarding" and "load and store with register update").
_ACCUMULATOR_FORWARDING = 1
_ADDRESS_UPDATE = 1
_WARM_UP, _MEASURED = 12, 12


class _Core:
    """State of the pipeline: the cycle of the next issue, and when registers and units are free."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._cycle, self._issued = 0, 0
        self._ready: dict[str, int] = {}
        self._producer: dict[str, tuple[str, int]] = {}
        self._free: dict[str, float] = defaultdict(float)

    @property
    def now(self) -> float:
        return self._cycle + self._issued / self._width

    def state(self) -> Hashable:
        """All that later cycles depend on, relative to now: equal states have equal futures."""
        registers = []
        for register, ready in self._ready.items():
            name, issued = self._producer.get(register, ("", 0))
            waits = max(ready - self._cycle, 0), max(issued + _ACCUMULATOR_FORWARDING - self._cycle, 0)
            if any(waits):
                registers.append((register, name, waits))
        # Which of several free units is taken depends on who was free first.
        units = sorted(self._free, key=lambda unit: self._free[unit])
        busy = tuple(max(self._free[unit] - self._cycle, 0.0) for unit in units)
        return self._issued, tuple(sorted(registers)), tuple(units), busy

    def issue(self, operands: Operands, timing: Timing) -> None:
        start = float(self._cycle)
        for register in operands.reads:
            start = max(start, self._available(register, operands))
        for use in timing.uses:
            free = [self._free[unit] for unit in use.units]
            start = max(start, max(free) if _takes_all(use) else min(free))
        at = -int(-start // 1)
        if at > self._cycle:
            self._cycle, self._issued = at, 0
        self._occupy(timing)
        for register in operands.writes:
            self._ready[register] = self._cycle + timing.latency
            self._producer[register] = (operands.name, self._cycle)
        if operands.updated_base:
            self._ready[operands.updated_base] = self._cycle + _ADDRESS_UPDATE
        self._issued += 1
        if self._issued == self._width:
            self._cycle, self._issued = self._cycle + 1, 0

    def _available(self, register: str, operands: Operands) -> int:
        ready = self._ready.get(register, 0)
        if register == operands.accumulator:
            name, issued = self._producer.get(register, ("", 0))
            if name == operands.name:
                return issued + _ACCUMULATOR_FORWARDING
        return ready

    def _occupy(self, timing: Timing) -> None:
        for use in timing.uses:
            if _takes_all(use):
                for unit in use.units:
                    self._free[unit] = self._cycle + use.cycles / len(use.units)
            else:
                first = min(use.units, key=lambda unit: self._free[unit])
                self._free[first] = max(self._free[first], self._cycle) + use.cycles


def _takes_all(use: Use) -> bool:
    return len(use.units) > 1 and use.cycles >= len(use.units)


def block_cycles(texts: Sequence[str], timings: Mapping[str, Timing], width: int) -> float:
    """Cycles an iteration when a block is repeated; L1 hits and right predictions assumed.

    Args:
        texts: assembly of its instructions.
        timings: LLVM's, of each of them.
        width: instructions that the core issues a cycle.
    """
    core = _Core(width)
    steps = [(parse(t), timings[t]) for t in texts]
    ends = [core.now]
    seen = {core.state(): 0}
    for iteration in range(1, _WARM_UP + _MEASURED + 1):
        for operands, timing in steps:
            core.issue(operands, timing)
        ends.append(core.now)
        first = seen.setdefault(core.state(), iteration)
        if first < iteration:  # from here on everything repeats
            period = iteration - first
            while len(ends) <= _WARM_UP + _MEASURED:
                ends.append(ends[-period] + ends[iteration] - ends[first])
            break
    return (ends[_WARM_UP + _MEASURED] - ends[_WARM_UP]) / _MEASURED
