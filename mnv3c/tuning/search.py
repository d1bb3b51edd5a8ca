"""The search for one operator: all of a small space, else neighbours of a good start and then Optuna's TPE.

A stage's cost is nearly a sum: of its kernels, of the cache lines that it moves. So one knob after the other
is changed first, then the changes that helped are put together; what is left of the trials goes to Optuna,
which has learnt from all of them.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mnv3c.codegen.program import Schedule
from mnv3c.errors import Mnv3cError
from mnv3c.schedules import Table, Value
from mnv3c.tuning import space

# Spaces of up to so many schedules are searched as a whole.
EXHAUSTIVE = 64


class Search:
    """Proposes schedules of one operator and learns what they cost.

    The same table, default, seed and costs give the same proposals, whatever the sizes of the batches are
    as long as each batch is told before the next one is asked for.

    Args:
        table: knob to values worth a trial.
        default: the value of every knob that the path's own rules give.
        hints: changes that helped operators like this one; knobs and values that it does not have are
            left out.
    """

    def __init__(self, table: Table, default: Schedule, seed: int, hints: Sequence[Schedule] = ()) -> None:
        self._knobs = {k: _with(values, default[k]) for k, values in table.items() if k in default}
        self.default: dict[str, Value] = {k: default[k] for k in self._knobs}
        self._told: dict[tuple[Value, ...], float] = {}
        self._asked: set[tuple[Value, ...]] = set()
        self._queue: list[Schedule] = [self.default]
        self._steps = [self._neighbours, self._combinations]
        self._base: Schedule = self.default
        if space.size(self._knobs) <= EXHAUSTIVE:
            self._queue += space.every(self._knobs)
            self._steps = []
        else:
            self.hint(hints)
        self._study: Any = None
        self._seed = seed
        self._open: dict[tuple[Value, ...], Any] = {}

    @property
    def best(self) -> tuple[Schedule, float]:
        """The cheapest schedule told so far, and its cost; of equal ones the first."""
        if not self._told:
            return self.default, math.inf
        key = min(self._told, key=lambda k: self._told[k])
        return dict(zip(self._knobs, key, strict=True)), self._told[key]

    def ranked(self) -> list[Schedule]:
        """All schedules that worked, the cheapest first."""
        good = [k for k, cost in self._told.items() if math.isfinite(cost)]
        return [dict(zip(self._knobs, k, strict=True)) for k in sorted(good, key=lambda k: self._told[k])]

    @property
    def tried(self) -> int:
        return len(self._told)

    def hint(self, hints: Sequence[Schedule]) -> None:
        """Try these changes of the default next."""
        fit = [{k: v for k, v in h.items() if v in self._knobs.get(k, ())} for h in hints]
        self._queue = [*self._queue[:1], *({**self.default, **h} for h in fit if h), *self._queue[1:]]

    def ask(self, count: int) -> list[Schedule]:
        """Up to ``count`` schedules that were not asked for before; fewer when the space is exhausted."""
        found: list[Schedule] = []
        while len(found) < count and len(self._asked) < space.size(self._knobs):
            schedule = self._next()
            if schedule is None:
                break
            key = self._key(schedule)
            if key not in self._asked:
                self._asked.add(key)
                found.append(schedule)
        return found

    def tell(self, schedule: Schedule, cost: float) -> None:
        """What a schedule costs; infinite for one that failed."""
        key = self._key(schedule)
        self._asked.add(key)
        self._told[key] = cost
        if self._study is not None:
            self._learn(key, cost)

    def _key(self, schedule: Schedule) -> tuple[Value, ...]:
        return tuple(schedule[k] for k in self._knobs)

    def _next(self) -> Schedule | None:
        while not self._queue and self._steps:
            if len(self._told) < len(self._asked):
                return None  # the next step builds on what these cost
            self._queue = self._steps.pop(0)()
        if self._queue:
            return self._queue.pop(0)
        return None if space.size(self._knobs) <= EXHAUSTIVE else self._sample()

    def _neighbours(self) -> list[Schedule]:
        """The best so far with one knob changed, the knobs in turn."""
        self._base = dict(self.best[0])
        changes = [[{**self._base, k: v} for v in values] for k, values in self._knobs.items()]
        turns = itertools.zip_longest(*changes)
        return [s for turn in turns for s in turn if s is not None and s != self._base]

    def _combinations(self) -> list[Schedule]:
        """The changes that helped, together: all, and all but one of each."""
        base = self._told[self._key(self._base)]
        helpful: dict[str, Value] = {}
        for knob, values in self._knobs.items():
            costs = {v: self._told.get(self._key({**self._base, knob: v}), math.inf) for v in values}
            value = min(costs, key=lambda v, costs=costs: costs[v])  # type: ignore[misc]
            if costs[value] < base:
                helpful[knob] = value
        parts = [helpful, *({k: v for k, v in helpful.items() if k != left} for left in helpful)]
        return [{**self._base, **part} for part in parts]

    def _sample(self) -> Schedule:
        if self._study is None:
            self._study = _study(self._seed)
            for key, cost in self._told.items():
                self._learn(key, cost)
        trial = self._study.ask(_distributions(self._knobs))
        schedule = {k: values[trial.params[k]] for k, values in self._knobs.items()}
        key = self._key(schedule)
        if key in self._told:
            self._study.tell(trial, _finite(self._told[key]))
        else:
            self._open[key] = trial
        return schedule

    def _learn(self, key: tuple[Value, ...], cost: float) -> None:
        trial = self._open.pop(key, None)
        if trial is not None:
            self._study.tell(trial, _finite(cost))
            return
        import optuna

        params = {k: values.index(v) for (k, values), v in zip(self._knobs.items(), key, strict=True)}
        distributions = _distributions(self._knobs)
        made = optuna.trial.create_trial(params=params, distributions=distributions, value=_finite(cost))
        self._study.add_trial(made)


def _with(values: Sequence[Value], default: Value) -> tuple[Value, ...]:
    return tuple(values) if default in values else (*values, default)


def _finite(cost: float) -> float:
    return cost if math.isfinite(cost) else 1e30


def _distributions(table: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
    """A knob is the number of its value: numbers keep their order, which TPE uses."""
    import optuna

    return {
        k: optuna.distributions.IntDistribution(0, len(values) - 1)
        if isinstance(values[0], int)
        else optuna.distributions.CategoricalDistribution(tuple(range(len(values))))
        for k, values in table.items()
    }


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError:
        raise Mnv3cError("not installed: pip install 'mnv3c[tune]'", "optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=0
        )
    return optuna.create_study(sampler=sampler)
