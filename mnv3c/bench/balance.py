"""How well a layer's shares fill several workers, from the shares' counted instructions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

WORKERS = (1, 2, 4)


@dataclass(frozen=True)
class Balance:
    """A split between ``workers``.

    Attributes:
        critical: instructions of the busiest worker, summed over the layers; a layer waits for all.
        total: instructions of all workers.
        undivided: instructions of a run that divides nothing: less than ``total``, where shares compute the
            rows at which they meet twice.
        layers: critical instructions of each layer.
    """

    workers: int
    critical: float
    total: float
    undivided: float
    layers: tuple[float, ...]

    @property
    def share(self) -> float:
        """Critical path over total: 1 / workers at best."""
        return self.critical / self.total if self.total else 1.0

    @property
    def efficiency(self) -> float:
        """Speed-up over one worker that divides nothing, over the workers: 1 at best."""
        return self.undivided / (self.critical * self.workers) if self.critical else 1.0


def makespan(parts: Sequence[float], workers: int) -> float:
    """When the last worker ends, if each takes the next part as soon as it is free."""
    busy = [0.0] * workers
    for part in parts:
        heapq.heapreplace(busy, busy[0] + part)
    return max(busy)


def balance(
    layers: Sequence[Sequence[float]], workers: int, undivided: Sequence[float] | None = None
) -> Balance:
    """Args:
    layers: cost of each share of each layer, in the order in which shares are handed out.
    undivided: cost of each layer in a run that divides nothing; one worker takes these, and has no shares.
    """
    total = float(sum(sum(p) for p in layers))
    alone = total if undivided is None else float(sum(undivided))
    if workers == 1 and undivided is not None:
        return Balance(1, alone, alone, alone, tuple(undivided))
    critical = tuple(makespan(parts, workers) for parts in layers)
    return Balance(workers, sum(critical), total, alone, critical)
