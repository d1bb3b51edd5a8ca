"""Finds the tables of ``schedules/``, which say of each operator what its kernels can do and what is used.

Two sides read them: the paths ask the rules of a table (``default_tile`` and so on) for the value of a knob
that nobody has chosen; ``mnv3c.tuning.space`` asks ``legal``, ``default`` and ``candidates``, which put
together the knobs of an operator.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from mnv3c import resources
from mnv3c.errors import Mnv3cError

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

    def numbers(self, name: str) -> tuple[int, ...]:
        """A value such as ``1x1x1x1``."""
        return tuple(int(n) for n in self.text(name).split("x"))

    def pair(self, name: str) -> tuple[int, int]:
        """A value such as ``3x3``."""
        first, second = self.numbers(name)
        return first, second

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
    """The module ``schedules/<operator>.py``; a table may build on another one.

    Paths ask for it where they use it, not when they are imported: a table may import of a path how
    windows fall on its tiles.

    Raises:
        Mnv3cError: there is no such file.
    """
    module = _module(operator)
    if module is None:
        raise Mnv3cError("is missing; the installation is incomplete", f"schedules/{operator}.py")
    return module


def has_table(operator: str) -> bool:
    """Whether ``schedules/`` has a table for the operator."""
    return _module(operator) is not None


def divisors(number: int, most: int) -> tuple[int, ...]:
    """Divisors of ``number`` up to ``most``, ascending."""
    return tuple(n for n in range(1, min(number, most) + 1) if number % n == 0)


def spread(most: int, count: int = 6) -> tuple[int, ...]:
    """A few numbers from 1 to ``most``, about evenly spaced in ratio, both ends among them."""
    if most <= count:
        return tuple(range(1, most + 1))
    steps = (round(most ** (i / (count - 1))) for i in range(count))
    return tuple(sorted(set(steps)))
