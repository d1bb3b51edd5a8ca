"""The search space: operators, their knobs, and the tables of ``schedules/`` that list the values."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import cast

from mnv3c import resources
from mnv3c.codegen.program import Schedule
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target

Value = int | str
# Knob to its values; the space is their product.
Table = Mapping[str, Sequence[Value]]


@dataclass(frozen=True)
class Op:
    """An operator with everything that decides which schedule is best for it.

    Attributes:
        operator: ``block``, ``pointwise``, ``vector``, ``convolution``: a file of ``schedules/``.
        path: of the kernels that compute it.
        shape: names and values, in a fixed order: sizes, windows, what follows, and the block shapes of
            its tensors where the path has several.
    """

    operator: str
    path: str
    shape: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        return dict(self.shape)[name]

    def number(self, name: str) -> int:
        return int(self[name])

    def text(self, name: str) -> str:
        return str(self[name])

    def pair(self, name: str) -> tuple[int, int]:
        """A value such as ``3x3``."""
        first, second = self.text(name).split("x")
        return int(first), int(second)

    @property
    def key(self) -> str:
        """One line that tells operators apart, for people too."""
        return f"{self.operator} {self.path} " + " ".join(f"{k}={v}" for k, v in self.shape)


@functools.cache
def _module(operator: str) -> ModuleType | None:
    file = resources.directory("schedules") / f"{operator}.py"
    spec = importlib.util.spec_from_file_location(f"mnv3c_schedules_{operator}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_of(operator: str) -> ModuleType:
    """The module ``schedules/<operator>.py``; a table may build on another one."""
    module = _module(operator)
    if module is None:
        raise Mnv3cError("is missing; the installation is incomplete", f"schedules/{operator}.py")
    return module


def tunable(operator: str) -> bool:
    """Whether ``schedules/`` has a table for the operator."""
    return _module(operator) is not None


def legal(op: Op, target: Target) -> Table:
    """Every value of every knob that the kernels can compute ``op`` with."""
    module = _module(op.operator)
    return cast(Table, module.legal(op, target)) if module else {}


def default(op: Op, target: Target) -> Schedule:
    """The schedule without any search; knobs left out follow the path's own rules."""
    module = _module(op.operator)
    return cast(Schedule, module.default(op, target)) if module else {}


def candidates(op: Op, target: Target) -> Table:
    """The values that are worth a trial: a part of ``legal``."""
    module = _module(op.operator)
    return cast(Table, module.candidates(op, target)) if module else {}


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


def divisors(number: int, most: int) -> tuple[int, ...]:
    """Divisors of ``number`` up to ``most``, ascending."""
    return tuple(n for n in range(1, min(number, most) + 1) if number % n == 0)


def spread(most: int, count: int = 6) -> tuple[int, ...]:
    """A few numbers from 1 to ``most``, about evenly spaced in ratio, both ends among them."""
    if most <= count:
        return tuple(range(1, most + 1))
    steps = (round(most ** (i / (count - 1))) for i in range(count))
    return tuple(sorted(set(steps)))
