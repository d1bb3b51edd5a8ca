"""Latency tables: what each layer of a network costs on a core, and what other blocks in its place would."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnv3c.bench import llvm
from mnv3c.codegen.program import Schedule
from mnv3c.ir.graph import Graph
from mnv3c.schedules import Op
from mnv3c.targets import Target
from mnv3c.tuning import bound, grid, tasks
from mnv3c.tuning.apply import Applied, apply
from mnv3c.tuning.bound import Bound
from mnv3c.tuning.devices.base import Device
from mnv3c.tuning.devices.simulated import SimulatedDevice
from mnv3c.tuning.grid import Block
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.records import Records
from mnv3c.tuning.report import shape_text
from mnv3c.tuning.tasks import Layer, Task

_BATCH = 32
Tell = Callable[[str, int, int], None]  # what is being done, done, total


def silent(step: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Entry:
    """A layer of a network.

    Attributes:
        cost: ``None`` where the device could not measure it.
        tuned: whether its schedule is one that tuning found.
        least: of the simulated core, what any schedule costs at least; ``None`` where it is not known.
    """

    layer: str
    operator: str
    shape: str
    cost: float | None
    tuned: bool
    least: Bound | None = None


class Meter:
    """Measures layers with their schedules; each operator once.

    Args:
        known: records, asked in order; layers without one get their default schedule.
        tell: called with what is being done, how much of it is done, and how much there is.
    """

    def __init__(
        self,
        path: str,
        core: Target,
        device: Device,
        journal: Journal,
        known: Sequence[Records],
        family: str,
        tell: Tell = silent,
    ) -> None:
        self._path, self._core, self._device = path, core, device
        self._journal, self._known, self._family, self._tell = journal, known, family, tell
        self._least: dict[Op, Bound] = {}

    def network(self, graph: Graph) -> list[Entry]:
        """One entry a layer, in order."""
        applied = apply(graph, self._path, self._core, self._known, self._family)
        costs = self._costs([(graph, applied)])
        return [
            Entry(
                layer.nodes[-1],
                layer.op.operator,
                shape_text(layer.op),
                costs.get(layer.op),
                not applied.tuned.isdisjoint(layer.nodes),
                self._least.get(layer.op),
            )
            for layer in applied.layers
        ]

    def grid(self, graph: Graph, seed: int = 0) -> list[Block]:
        """Every kernel and expansion, with and without SE, in each place of a network."""
        blocks = grid.blocks(graph)
        made: list[tuple[Graph, Applied]] = []
        for small in grid.networks(blocks, seed, lambda done, total: self._tell("blocks", done, total)):
            applied = apply(small, self._path, self._core, self._known, self._family)
            own = tuple(x for x in applied.layers if not {grid.BEFORE, grid.AFTER} & set(x.nodes))
            made.append((small, dataclasses.replace(applied, layers=own)))
        costs = self._costs(made)
        found = []
        for block, (_, applied) in zip(blocks, made, strict=True):
            each = [costs.get(layer.op) for layer in applied.layers]
            total = None if None in each else sum(c for c in each if c is not None)
            found.append(dataclasses.replace(block, cost=total))
        return found

    def _costs(self, networks: Sequence[tuple[Graph, Applied]]) -> dict[Op, float]:
        wanted: dict[Op, tuple[Graph, Layer, Schedule]] = {}
        for graph, applied in networks:
            for layer in applied.layers:
                wanted.setdefault(layer.op, (graph, layer, self._schedule(layer)))
        costs: dict[Op, float] = {}
        ops = list(wanted)
        for start in range(0, len(ops), _BATCH):
            self._tell("measure", start, len(ops))
            made = {op: self._task(*wanted[op][:2]) for op in ops[start : start + _BATCH]}
            some = {op: task.candidate(wanted[op][2])[0] for op, task in made.items()}
            new = {c.key: c for c in some.values() if self._journal.get(c.key) is None}
            for m in self._device.measure(list(new.values())):
                self._journal.add(m.key, m.cost if m.ok else float("inf"))
            if isinstance(self._device, SimulatedDevice) and llvm.tools() is not None:
                for op, candidate in some.items():
                    ran = self._device.simulations.get(candidate.key)
                    if ran is not None:
                        touched = bound.traffic(candidate, made[op].graph, *made[op].converted)
                        self._least[op] = bound.of(self._core, ran.executed, touched)
            for op, candidate in some.items():
                cost = self._journal.get(candidate.key)
                if cost is not None and cost < float("inf"):
                    costs[op] = cost
        self._tell("measure", len(ops), len(ops))
        return costs

    def _task(self, graph: Graph, layer: Layer) -> Task:
        return tasks.task(graph, layer, self._core.name)

    def _schedule(self, layer: Layer) -> Schedule:
        found = next((r for k in self._known if (r := k.get(layer.op, self._family)) is not None), None)
        return found.schedule if found is not None else {}


def network_csv(entries: Sequence[Entry], unit: str) -> str:
    """One line a layer."""
    rows: list[Mapping[str, Any]] = [
        {
            "layer": e.layer,
            "operator": e.operator,
            "shape": e.shape,
            "cost": e.cost,
            "unit": unit,
            "tuned": int(e.tuned),
            "least": round(e.least.cycles) if e.least is not None else None,
        }
        for e in entries
    ]
    return _csv(rows)


def grid_rows(blocks: Sequence[Block], unit: str) -> list[Mapping[str, Any]]:
    """One mapping a block, ready for CSV and JSON."""
    return [
        {
            "height": b.place.input[0],
            "width": b.place.input[1],
            "in": b.place.input[2],
            "channels": b.channels,
            "out": b.place.out,
            "kernel": b.kernel,
            "stride": b.place.stride,
            "squeeze": int(b.squeeze),
            "activation": b.place.activation,
            "cost": b.cost,
            "unit": unit,
        }
        for b in blocks
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def grid_csv(blocks: Sequence[Block], unit: str) -> str:
    """One line a block."""
    return _csv(grid_rows(blocks, unit))
