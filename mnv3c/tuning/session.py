"""A search over a whole network: defaults first, then rounds over its operators, then the plan."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mnv3c.codegen.program import Schedule
from mnv3c.ir.graph import Graph
from mnv3c.schedules import Op, has_table
from mnv3c.targets import Target
from mnv3c.tuning import conversions, network, space, tasks
from mnv3c.tuning.devices.base import Candidate, Device, Measurement, Status
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.network import Plan
from mnv3c.tuning.records import Record
from mnv3c.tuning.search import Search
from mnv3c.tuning.tasks import Layer, Task

# Schedules of an operator in a round, and candidates handed to a device at once.
_ROUND, _BATCH = 8, 32
# Other block shapes and fusions are searched if the best network with them costs at most this part of the
# operator more than the best of all.
_PROMISING = 0.1
# Parts of a network's cost from which on an operator gets all trials, and half of them; others get one round.
_LARGE, _SMALL = 0.02, 0.004
# Finished operators that give hints to one like them.
_HINTS = 4


@dataclass(frozen=True)
class Settings:
    """How long to search.

    Attributes:
        trials: schedules of an operator at most.
        seconds: after which no new batch begins; ``None`` for no limit.
        seed: of everything random.
    """

    trials: int = 80
    seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a search is.

    Attributes:
        step: what is being done.
        measured, planned: candidates so far, and all that are planned.
        best, default: cost of the network by the best schedules so far, and by the defaults.
    """

    step: str
    measured: int
    planned: int
    best: float
    default: float


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        records: one for each operator of which at least the default was measured.
        default, best: layers of the network by the path's rules and by the search.
        default_cost, best_cost: the sums of their costs.
        measured, known: candidates measured, and found in the journal.
        failed: what did not work: operator, schedule, reason.
        ranked: of each operator the schedules that were measured, cheapest first.
        notes: the device's, about its measurements.
        complete: false if time or the user ended the search.
    """

    records: tuple[Record, ...]
    default: tuple[Layer, ...]
    best: tuple[Layer, ...]
    default_cost: float
    best_cost: float
    measured: int
    known: int
    failed: tuple[tuple[str, Schedule, str], ...]
    ranked: Mapping[Op, Sequence[Schedule]]
    notes: tuple[str, ...]
    complete: bool


@dataclass
class _State:
    """One operator while it is searched."""

    task: Task
    search: Search
    default: Schedule
    default_cost: float
    schedules: dict[str, Schedule] = field(default_factory=dict)  # by candidate key, the first of each

    @property
    def best_cost(self) -> float:
        return min(self.default_cost, self.search.best[1])


class Session:
    """A search of one network for one core on one device.

    Args:
        graph: integer graph of primitive operators.
        compiler: family and major version, ``clang 19``.
        tell: called as the search goes on.
        earlier: records whose schedules are tried first for operators like theirs, of any core.
    """

    def __init__(
        self,
        graph: Graph,
        path: str,
        target: Target,
        device: Device,
        compiler: str,
        settings: Settings,
        journal: Journal,
        tell: Callable[[Progress], None] = lambda progress: None,
        earlier: Sequence[Record] = (),
    ) -> None:
        self._graph = graph
        self._target = target
        self._device = device
        self._compiler = compiler
        self._settings = settings
        self._journal = journal
        self._tell = tell
        self._earlier = earlier
        self._price = conversions.price(target, device.unit)
        self._began = time.monotonic()
        self._own = tasks.layers(graph, path, target.name)
        self._variants = tasks.variants(graph, path, target.name)
        self._states: dict[Op, _State] = {}
        self._finished: list[Op] = []
        self._measured = self._known = self._planned = 0
        self._failed: list[tuple[str, Schedule, str]] = []
        self.interrupt: KeyboardInterrupt | None = None  # that ended the search

    def run(self) -> Outcome:
        """Search until everything is tried, time is up, or the user interrupts."""
        complete = True
        try:
            self._defaults("default schedules", dict.fromkeys(layer.op for layer in self._own))
            self._defaults("other block shapes and fusions", dict.fromkeys(v.op for v in self._variants))
            complete = not self._time_is_up() and self._rounds()
        except KeyboardInterrupt as interrupt:
            complete, self.interrupt = False, interrupt
        return self._outcome(complete)

    def finals(self, prior: Outcome, count: int) -> Outcome:
        """Measure the network that another device found best, of each operator ``count`` schedules."""
        complete = True
        try:
            # Both networks, so that the device itself says which of them is better.
            self._defaults("default schedules", dict.fromkeys(layer.op for layer in prior.default))
            self._defaults("other block shapes and fusions", dict.fromkeys(layer.op for layer in prior.best))
            for op in dict.fromkeys(layer.op for layer in prior.best):
                state = self._states.get(op)
                if state is None or self._time_is_up():
                    complete = False
                    break
                batch = []
                for schedule in list(prior.ranked.get(op, ()))[:count]:
                    candidate, _ = state.task.candidate(schedule)
                    batch.append((op, candidate, schedule))
                costs = self._measure("best schedules", batch)
                for _, candidate, schedule in batch:
                    state.search.tell(schedule, costs[candidate.key])
        except KeyboardInterrupt as interrupt:
            complete, self.interrupt = False, interrupt
        return self._outcome(complete)

    def _cost(self, op: Op) -> float | None:
        state = self._states.get(op)
        return state.best_cost if state is not None and math.isfinite(state.best_cost) else None

    def _default_cost(self, op: Op) -> float | None:
        state = self._states.get(op)
        return state.default_cost if state is not None and math.isfinite(state.default_cost) else None

    def _plan(self) -> Plan:
        return network.plan(self._graph, self._variants, self._own, self._cost, self._price)

    def _time_is_up(self) -> bool:
        limit = self._settings.seconds
        return limit is not None and time.monotonic() - self._began > limit

    def _defaults(self, step: str, ops: Iterable[Op]) -> None:
        """Measure the default schedules of operators not seen yet."""
        layers = {layer.op: layer for layer in reversed([*self._own, *self._variants])}
        new = [op for op in ops if op not in self._states]
        for some in _batches(new, _BATCH):
            if self._time_is_up():
                return
            made = {op: tasks.task(self._graph, layers[op], self._target.name) for op in some}
            candidates = {op: made[op].candidate({}) for op in some}
            costs = self._measure(step, [(op, c, s) for op, (c, s) in candidates.items()])
            for op, (candidate, effective) in candidates.items():
                table = space.candidates(op, self._target)
                search = Search(
                    table, {k: v for k, v in effective.items() if k in table}, self._settings.seed
                )
                state = _State(made[op], search, effective, costs[candidate.key])
                self._states[op] = state
                search.ask(1)
                search.tell(search.default, state.default_cost)
                state.schedules[candidate.key] = search.default

    def _rounds(self) -> bool:
        """Search the operators of the best network, then what may replace them; whether all was tried."""
        best = self._plan()
        count = Counter(layer.op for layer in best.layers)
        weights = {op: self._states[op].default_cost * n for op, n in count.items() if op in self._states}
        if not self._search("search", weights, best.cost, 1):
            return False
        best = self._plan()
        slack = network.slack(self._graph, self._variants, self._own, self._cost, best, self._price)
        rivals = {
            op: state.default_cost
            for op, state in self._states.items()
            if op not in count and slack.get(op, math.inf) <= _PROMISING * state.default_cost
        }
        return self._search("search other block shapes and fusions", rivals, best.cost, 2)

    def _search(self, step: str, weights: Mapping[Op, float], whole: float, divisor: int) -> bool:
        """Search operators, the costliest first; false if time was up."""
        some_knobs = [op for op in weights if has_table(op.operator)]
        order = sorted(some_knobs, key=lambda op: (-weights[op], op.key))
        trials = {op: self._trials(op, weights[op] / whole / divisor) for op in order}
        self._planned = self._measured + self._known + sum(trials.values())
        for some in _batches(order, _BATCH // _ROUND):
            for op in some:
                self._states[op].search.hint(self._hints(op))
            going = list(some)
            while going:
                if self._time_is_up():
                    return False
                finished = self._round(step, going, trials)
                going = [op for op in going if op not in finished]
            self._finished += some
        return True

    def _trials(self, op: Op, part: float) -> int:
        """Schedules to try of an operator that takes ``part`` of the network's cost."""
        # A chain has the knobs of several blocks.
        most = self._settings.trials * (2 if op.operator == "chain" else 1)
        wanted = most if part >= _LARGE else max(most // 2, _ROUND) if part >= _SMALL else _ROUND
        return min(wanted, most, space.size(space.candidates(op, self._target)))

    def _hints(self, op: Op) -> list[Schedule]:
        """What helped the operators most like this one: finished ones, and those of earlier searches."""
        pool: list[tuple[float, str, Schedule]] = [
            (_distance(r.op, op), r.op.key, r.schedule) for r in self._earlier if _alike(r.op, op)
        ]
        for other in self._finished:
            state = self._states[other]
            schedule, cost = state.search.best
            if _alike(other, op) and cost < state.default_cost:
                changes: Schedule = {k: v for k, v in schedule.items() if v != state.search.default[k]}
                pool.append((_distance(other, op), other.key, changes))
        hints: list[Schedule] = []
        for _, _, changes in sorted(pool, key=lambda entry: entry[:2]):
            if changes and changes not in hints:
                hints.append(changes)
        return hints[:_HINTS]

    def _round(self, step: str, ops: Sequence[Op], trials: Mapping[Op, int]) -> set[Op]:
        """A few schedules of each operator; those that have no more to try."""
        batch: list[tuple[Op, Candidate, Schedule]] = []
        asked: list[tuple[Op, Schedule, str]] = []
        finished = set()
        for op in ops:
            state = self._states[op]
            wanted = min(_ROUND, trials[op] - state.search.tried)
            schedules = state.search.ask(wanted) if wanted > 0 else []
            if not schedules:
                finished.add(op)
            for schedule in schedules:
                candidate, _ = state.task.candidate(schedule)
                asked.append((op, schedule, candidate.key))
                state.schedules.setdefault(candidate.key, schedule)
                batch.append((op, candidate, schedule))
        costs = self._measure(step, batch)
        for op, schedule, key in asked:
            self._states[op].search.tell(schedule, costs[key])
        return finished

    def _measure(self, step: str, batch: Sequence[tuple[Op, Candidate, Schedule]]) -> dict[str, float]:
        """Costs by candidate key; each distinct code is measured once."""
        costs: dict[str, float] = {}
        new: dict[str, tuple[Op, Candidate, Schedule]] = {}
        for op, candidate, schedule in batch:
            known = self._journal.get(candidate.key)
            if known is not None:
                costs[candidate.key] = known
                self._known += 1
            else:
                new.setdefault(candidate.key, (op, candidate, schedule))
        done_before = self._measured
        self._report(step)
        found = self._device.measure(
            [c for _, c, _ in new.values()], lambda done, _: self._advance(step, done_before + done)
        )
        for m in found:
            self._keep(m, *new[m.key])
            costs[m.key] = m.cost if m.ok else math.inf
        self._measured = done_before + len(found)
        self._report(step)
        return costs

    def _keep(self, m: Measurement, op: Op, _: Candidate, schedule: Schedule) -> None:
        if m.status is not Status.LOST:  # a device that comes back may be asked again
            self._journal.add(m.key, m.cost if m.ok else math.inf)
        if not m.ok:
            self._failed.append((op.key, schedule, f"{m.status.value}: {m.detail}"))

    def _advance(self, step: str, measured: int) -> None:
        self._measured = measured
        self._report(step)

    def _report(self, step: str) -> None:
        best = default = 0.0
        for layer in self._own:
            best += self._cost(layer.op) or 0.0
            default += self._default_cost(layer.op) or 0.0
        done = self._measured + self._known
        self._tell(Progress(step, done, max(self._planned, done), best, default))

    def _outcome(self, complete: bool) -> Outcome:
        plan = self._plan()
        by_rule = network.plan(self._graph, self._own, self._own, self._default_cost, self._price)
        records = [r for op in self._states if (r := self._record(op)) is not None]
        return Outcome(
            tuple(records),
            by_rule.layers,
            plan.layers,
            by_rule.cost,
            plan.cost,
            self._measured,
            self._known,
            tuple(self._failed),
            {op: state.search.ranked() for op, state in self._states.items()},
            tuple(self._device.notes),
            complete,
        )

    def _record(self, op: Op) -> Record | None:
        state = self._states[op]
        if not math.isfinite(state.default_cost):
            return None
        schedule, cost = state.search.best
        if not cost < state.default_cost:
            schedule, cost = {}, state.default_cost
        else:
            schedule = self._least(state, schedule)
        kind, unit = self._device.kind, self._device.unit
        return Record(op, self._compiler, schedule, cost, state.default_cost, unit, kind)

    def _least(self, state: _State, schedule: Schedule) -> Schedule:
        """The knobs that are not at their default, if these alone give the same code."""
        changed = {k: v for k, v in schedule.items() if state.default.get(k) != v}
        whole, _ = state.task.candidate(schedule)
        short, _ = state.task.candidate(changed)
        return changed if whole.key == short.key else schedule


def _alike(a: Op, b: Op) -> bool:
    return (a.operator, a.path) == (b.operator, b.path)


def _distance(a: Op, b: Op) -> float:
    """How unlike two operators are: ratios of their sizes, and what else differs."""
    other = dict(b.shape)
    total = 0.0
    for name, value in a.shape:
        if isinstance(value, int) and isinstance(other.get(name), int):
            total += abs(math.log2((value + 1) / (int(other[name]) + 1)))
        elif value != other.get(name):
            total += 1.0
    return total


def _batches(ops: Sequence[Op], size: int) -> list[Sequence[Op]]:
    return [ops[i : i + size] for i in range(0, len(ops), size)]
