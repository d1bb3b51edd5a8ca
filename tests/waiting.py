"""Waiting for what another process does: as long as it takes on a busy machine, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable

# Far more than anything here takes; only a test that fails waits so long.
SECONDS = 300.0


def until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds; fails where it does not within ``SECONDS``."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)
