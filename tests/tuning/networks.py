"""Networks and devices for the tests of the search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from mnv3c.ir.graph import Graph
from mnv3c.tuning.devices.base import Candidate, Measurement, Progress, Status
from tests.graphs import Builder, inverted_residual


def network(seed: int = 1, name: str = "tuned") -> Graph:
    """Stem, blocks with and without SE and residual, pool, classifier: every operator of ``schedules/``."""
    b = Builder(seed, name)
    x = b.hard_swish(b.conv(b.input(24, 24, 3), 8, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 24, 8, 3, 1)
    x = inverted_residual(b, x, 48, 16, 5, 2, reduced=8)
    x = inverted_residual(b, x, 48, 16, 3, 1, reduced=8)
    x = b.hard_swish(b.conv(x, 48, dtype="int16"))
    y = b.requantize(b.channel_sum(x), 36)
    return b.finish(b.conv(y, 20, dtype="int16"))


def cost_of(candidate: Candidate) -> float:
    """A made-up cost that depends on nothing but the candidate's code."""
    return 1000.0 + int(hashlib.sha256(candidate.key.encode()).hexdigest()[:6], 16) % 1000


class MadeUpDevice:
    """Costs by a function of the candidate; raises KeyboardInterrupt from a batch on, fails where it says."""

    unit = "cycles"

    def __init__(
        self,
        cost: Callable[[Candidate], float] = cost_of,
        *,
        stop_after: int | None = None,
        fails: Callable[[Candidate], bool] = lambda candidate: False,
    ) -> None:
        self.name = self.kind = "made up"
        self.notes: tuple[str, ...] = ()
        self.seen: list[str] = []
        self._cost, self._stop_after, self._fails = cost, stop_after, fails
        self._batches = 0

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        self._batches += 1
        if self._stop_after is not None and self._batches > self._stop_after:
            raise KeyboardInterrupt
        self.seen += [c.key for c in batch]
        return [
            Measurement(c.key, Status.CRASHED, detail="as told")
            if self._fails(c)
            else Measurement(c.key, Status.OK, self._cost(c), self.unit)
            for c in batch
        ]

    def close(self) -> None:
        pass
