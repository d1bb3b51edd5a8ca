from __future__ import annotations

import pytest

from mnv3c import targets
from mnv3c.bench import llvm
from mnv3c.tuning import bound

# As GNU as writes sdot v0.4s, v1.16b, v2.16b; sqrdmulh v0.4s, v1.4s, v2.4s; ldr q0, [x1];
# mov v0.16b, v1.16b; str q0, [x1].
SDOT, SQRDMULH, LDR, MOV, STR = 0x4E829420, 0x6EA2B420, 0x3DC00020, 0x4EA11C20, 0x3D800020


def sets(**busy):
    return {frozenset(units.split("_")): cycles for units, cycles in busy.items()}


@pytest.mark.parametrize(
    ("busy", "cycles"),
    [
        ({}, 0),
        (sets(a=5), 5),
        (sets(a_b=5), 2.5),
        (sets(a=5, a_b=1), 5),  # b has time for it
        (sets(a=5, a_b=9), 7),
        (sets(a=2, b=3, c=1, a_b=4, b_c=6), 16 / 3),
        (sets(a=1, b_c=10), 5),
    ],
)
def test_pressure_is_that_of_the_tightest_set_of_units(busy, cycles):
    assert bound.pressure(busy) == pytest.approx(cycles)


def test_constants_are_waited_for_where_a_run_touches_more_than_a_cache_holds():
    core = targets.get("cortex-a55").core
    assert core is not None
    c = core.cache
    l1, l2 = c.l1d_kib << 10, c.l2_kib << 10
    assert bound.waits(640, l1, c) == 0
    # One line more in half of the sets, then in all of them.
    assert bound.waits(640, l1 + l1 // c.l1d_ways // 2, c) == 5 * c.l1_miss_cycles
    assert bound.waits(640, l1 + l1 // c.l1d_ways, c) == 10 * c.l1_miss_cycles
    assert bound.waits(640, 2 * l2, c) == 10 * (c.l1_miss_cycles + c.l2_miss_cycles)


@pytest.mark.skipif(llvm.tools() is None, reason="LLVM's tools are not installed")
def test_arithmetic_counts_what_every_schedule_does():
    ran = {SDOT: 100, LDR: 1000, MOV: 1000}
    # One SDOT a cycle on the A55, two on the A76. There, a product of 32 bits keeps one of the pipes for two
    # cycles, and a store takes each of them for one.
    assert bound.of(targets.get("cortex-a55"), ran, 0).cycles == 100
    assert bound.of(targets.get("cortex-a76"), ran, 0).cycles == 50
    assert bound.of(targets.get("cortex-a76"), {SQRDMULH: 10, SDOT: 4}, 0).cycles == 20
    assert bound.of(targets.get("cortex-a76"), {SQRDMULH: 10, SDOT: 40}, 0).cycles == 30
    assert bound.of(targets.get("cortex-a76"), {STR: 10, SDOT: 20}, 0).cycles == 20
