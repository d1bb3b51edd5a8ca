"""What a path wants to know of the caches of the core that it is tuned for."""

from __future__ import annotations

from mnv3c import targets

_LEAST_L1 = 32 * 1024


def l1_bytes(tuning: str) -> int:
    """L1 data cache of ``Options.tuning``; that of the smallest cores for ``generic``."""
    if tuning not in targets.names():
        return _LEAST_L1
    core = targets.get(tuning).core
    return core.cache.l1d_kib * 1024 if core else _LEAST_L1
