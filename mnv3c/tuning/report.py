"""What a search found, layer by layer: plain data for tables and ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv3c.codegen.program import Schedule
from mnv3c.ir.graph import Graph
from mnv3c.schedules import Op, Value
from mnv3c.targets import Target
from mnv3c.tuning import space, tasks
from mnv3c.tuning.records import Record
from mnv3c.tuning.session import Outcome
from mnv3c.tuning.tasks import Layer


@dataclass(frozen=True)
class Row:
    """A layer of the tuned network.

    Attributes:
        count: how many layers of the network are this operator.
        default, best: cost of one of them by the path's rules, and by the search; ``None`` if unknown.
        own: whether the path's own rules have this layer too, with the same fusion and block shapes.
    """

    op: Op
    nodes: tuple[str, ...]
    count: int
    default: float | None
    best: float | None
    schedule: Schedule
    own: bool


def rows(outcome: Outcome) -> list[Row]:
    """The distinct layers of the tuned network, in its order."""
    known: Mapping[Op, Record] = {r.op: r for r in outcome.records}
    own = {layer.op for layer in outcome.default}
    found: dict[Op, list[Layer]] = {}
    for layer in outcome.best:
        found.setdefault(layer.op, []).append(layer)
    result = []
    for op, layers in found.items():
        r = known.get(op)
        result.append(
            Row(
                op,
                layers[0].nodes,
                len(layers),
                r.default_cost if r else None,
                r.cost if r else None,
                r.schedule if r else {},
                op in own,
            )
        )
    return result


def shape_text(op: Op) -> str:
    """The sizes of an operator for people."""
    shape = dict(op.shape)
    if op.operator == "vector":
        return f"{shape['in']} to {shape['out']}"
    size = f"{shape.get('height')}x{shape.get('width')}"
    if op.operator == "gate":
        return f"{size}x{shape['channels']}"
    if op.operator == "chain":
        numbers = sorted({int(name.partition(".")[0]) for name in shape})
        links = [{k.removeprefix(f"{n}."): v for k, v in op.shape if k.startswith(f"{n}.")} for n in numbers]
        return "; ".join(shape_text(Op("block", op.path, tuple(link.items()))) for link in links)
    if op.operator == "block":
        steps = [str(shape[k]) for k in ("in", "channels", "out") if shape[k]]
        window = f"{shape['kernel']}/{str(shape['stride']).split('x')[0]}"
        return f"{size}, {' to '.join(steps)}, {window}"
    window = f", {shape['kernel']}/{str(shape['stride']).split('x')[0]}" if "kernel" in shape else ""
    return f"{size}, {shape['in']} to {shape['out']}{window}"


@dataclass(frozen=True)
class KnobRow:
    """A knob of an operator.

    Attributes:
        default: the value without a search.
        candidates: what a search tries.
        legal: what the kernels can do.
    """

    op: Op
    knob: str
    default: Value
    candidates: tuple[Value, ...]
    legal: tuple[Value, ...]


def knob_rows(graph: Graph, path: str, core: Target) -> list[KnobRow]:
    """The knobs of a network's operators, as the path's own rules cut it."""
    found = []
    for op in dict.fromkeys(layer.op for layer in tasks.layers(graph, path, core.name)):
        values, candidates = space.default(op, core), space.candidates(op, core)
        found += [
            KnobRow(op, k, values[k], tuple(candidates.get(k, ())), tuple(legal))
            for k, legal in space.legal(op, core).items()
        ]
    return found


def values_text(values: Sequence[Value]) -> str:
    """Values for people: ``1 to 28`` where nothing is left out."""
    numbers = [v for v in values if isinstance(v, int)]
    if len(values) == len(numbers) > 3 and numbers == list(range(numbers[0], numbers[0] + len(values))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(str(v) for v in values)


def schedule_text(schedule: Schedule) -> str:
    """Knobs that are not at their default."""
    return " ".join(f"{k}={v}" for k, v in schedule.items()) or "default"
