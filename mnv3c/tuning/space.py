"""The search space: operators, their knobs, and the tables of ``schedules/`` that list the values."""

from __future__ import annotations

import itertools
import math
from typing import cast

from mnv3c.codegen.program import Schedule
from mnv3c.errors import Mnv3cError
from mnv3c.schedules import Op, Table, has_table, table_of
from mnv3c.targets import Target


def legal(op: Op, target: Target) -> Table:
    """Every value of every knob that the kernels can compute ``op`` with."""
    return cast(Table, table_of(op.operator).legal(op, target)) if has_table(op.operator) else {}


def default(op: Op, target: Target) -> Schedule:
    """The value of every knob without any search: what the path's kernels use for an empty schedule.

    The path asks the same rules, and knows of a layer what ``op`` does not say. A table's ``default`` names
    what that may be and answers for the usual case; so to get the default schedule exactly, give none.
    """
    return cast(Schedule, table_of(op.operator).default(op, target)) if has_table(op.operator) else {}


def candidates(op: Op, target: Target) -> Table:
    """The values that are worth a trial: a part of ``legal``."""
    return cast(Table, table_of(op.operator).candidates(op, target)) if has_table(op.operator) else {}


def check(schedule: Schedule, op: Op, target: Target, place: str) -> None:
    """Refuse a schedule with a knob or a value that ``legal`` does not list.

    Raises:
        Mnv3cError: one line that names operator, knob and value.
    """
    table = legal(op, target)
    for knob, value in schedule.items():
        if knob not in table:
            raise Mnv3cError(
                f"illegal schedule for {op.operator} on {op.path}: it has no knob {knob!r}", place
            )
        if value not in table[knob] or type(value) is not type(table[knob][0]):
            raise Mnv3cError(
                f"illegal schedule for {op.operator} on {op.path}: {knob} cannot be {value!r}", place
            )


def size(table: Table) -> int:
    """Number of schedules in the product."""
    return math.prod(len(values) for values in table.values())


def every(table: Table) -> list[Schedule]:
    """All schedules of the product, the first knob slowest."""
    return [dict(zip(table, chosen, strict=True)) for chosen in itertools.product(*table.values())]
