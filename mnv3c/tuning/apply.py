"""Uses records when a network is compiled: its fusion and block shapes, then each layer's schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnv3c.codegen.program import Schedule
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.schedules import Op
from mnv3c.targets import Target
from mnv3c.tuning import conversions, network, records, tasks
from mnv3c.tuning.records import Record, Records


@dataclass(frozen=True)
class Applied:
    """Schedules for ``codegen.program.Options``.

    Attributes:
        schedules: node to schedule.
        tuned: nodes whose schedule comes from a record.
        layers: of the planned network, in order.
    """

    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    tuned: frozenset[str] = frozenset()
    layers: tuple[tasks.Layer, ...] = ()


def sources(
    core: Target, family: str, files: Sequence[Path], *, with_shipped: bool = True, fall_back: bool = False
) -> tuple[list[Records], list[str]]:
    """Records to use, the user's first, and notes about those that cannot be used.

    Args:
        family: of the compiler that will compile the C code.
        fall_back: make a note of a file that cannot be used; without it such a file is an error.

    Raises:
        Mnv3cError: as ``records.load``.
    """
    found, notes = [], []
    own = records.shipped(core)
    for file in (*files, *((own,) if with_shipped and own.is_file() else ())):
        try:
            found.append(records.load(file, core, family if file is not own else None))
        except Mnv3cError as error:
            if not fall_back:
                raise
            notes.append(f"default schedules are used: {error}")
    return found, notes


def apply(graph: Graph, path: str, core: Target, known: Sequence[Records], family: str) -> Applied:
    """The schedules of a network's nodes.

    Args:
        graph: integer graph, primitive or fused.
        known: the first that knows an operator is asked about it.
    """

    def record(op: Op) -> Record | None:
        return next((r for k in known if (r := k.get(op, family)) is not None), None)

    own = tasks.layers(graph, path, core.name)
    unit = next((r.unit for layer in own if (r := record(layer.op)) is not None), None)

    def cost(op: Op) -> float | None:
        found = record(op)
        return found.cost if found is not None and found.unit == unit else None

    chosen: tuple[tasks.Layer, ...] = tuple(own)
    if unit is not None:
        variants = tasks.variants(graph, path, core.name)
        chosen = network.plan(graph, variants, own, cost, conversions.price(core, unit)).layers
    schedules: dict[str, Schedule] = {}
    tuned: set[str] = set()
    for layer in chosen:
        found = record(layer.op)
        # Without one the path asks its rules, as for an empty schedule.
        schedule = found.schedule if found is not None else {}
        schedules |= {node: knobs for node, knobs in layer.by_node(schedule).items() if knobs}
        if found is not None:
            tuned |= set(layer.nodes)
    return Applied(schedules, frozenset(tuned), chosen)
