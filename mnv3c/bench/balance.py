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
        layers: critical instructions of each layer.
    """

    workers: int
    critical: float
    total: float
    layers: tuple[float, ...]

    @property
    def share(self) -> float:
        """Critical path over total: 1 / workers at best."""
        return self.critical / self.total if self.total else 1.0

    @property
    def efficiency(self) -> float:
        """Of the workers' time, what is used: 1 at best."""
        return 1.0 / (self.share * self.workers)


def makespan(parts: Sequence[float], workers: int) -> float:
    """When the last worker ends, if each takes the next part as soon as it is free."""
    busy = [0.0] * workers
    for part in parts:
        heapq.heapreplace(busy, busy[0] + part)
    return max(busy)


def balance(layers: Sequence[Sequence[float]], workers: int) -> Balance:
    """Args:
    layers: cost of each share of each layer, in the order in which shares are handed out.
    """
    critical = tuple(makespan(parts, workers) for parts in layers)
    return Balance(workers, sum(critical), float(sum(sum(p) for p in layers)), critical)
