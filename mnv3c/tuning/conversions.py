"""What it costs to bring a tensor from one block shape into another, for plans of whole networks."""

from __future__ import annotations

from collections.abc import Callable

from mnv3c.targets import Target

Price = Callable[[int], float]  # of one conversion of a tensor of that many bytes

# Cycles a byte of the kernels tiles_from_dense and dense_from_tiles while they hit the first-level cache, on
# the simulated core, clang 19. Tensors of 24 to 160 channels, both block shapes and both directions lie up to
# 40 % around these.
_CYCLES = {
    "cortex-a55": 0.36,
    "cortex-a510": 0.26,
    "cortex-a76": 0.13,
    "cortex-a78": 0.13,
    "cortex-x1": 0.06,
    "cortex-a710": 0.09,
}
_IN_ORDER, _OUT_OF_ORDER = 0.36, 0.13  # of cores that nobody measured
# Part of a cache that a conversion has for itself: weights and other tensors want the rest.
_SHARE = 0.5
# Seconds a cycle, for costs of real devices, whose clock a plan does not know: 2 GHz.
_SECONDS = 5e-10


def price(core: Target, unit: str) -> Price:
    """The price of conversions on a core, in ``cycles`` or ``s``.

    Each byte is read once and written once: the kernel's own cycles, and the fills of both tensors' lines
    where they are too large to lie in a cache.
    """
    assert core.core is not None
    cache = core.core.cache
    usual = _IN_ORDER if core.core.pipeline == "in-order" else _OUT_OF_ORDER
    each = _CYCLES.get(core.name, usual)

    def of(size: int) -> float:
        both = 2 * size
        line = 0.0
        if both > _SHARE * (cache.l1d_kib << 10):
            line += cache.l1_miss_cycles
        if both > _SHARE * (cache.l2_kib << 10):
            line += cache.l2_miss_cycles
        cycles = each * size + line * both / cache.line_bytes
        return cycles * (_SECONDS if unit == "s" else 1.0)

    return of
