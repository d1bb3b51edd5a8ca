from __future__ import annotations

import math

import numpy as np
import pytest

from mnv3c import targets
from mnv3c.bench import llvm
from mnv3c.tuning import bound, tasks
from tests.tuning.networks import network

# As GNU as writes sdot v0.4s, v1.16b, v2.16b; sqrdmulh v0.4s, v1.4s, v2.4s; ldr q0, [x1];
# mov v0.16b, v1.16b; str q0, [x1].
SDOT, SQRDMULH, LDR, MOV, STR = 0x4E829420, 0x6EA2B420, 0x3DC00020, 0x4EA11C20, 0x3D800020


NOTHING = bound.Traffic(0)


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


def cycles_of(cache, first, second):
    """Waiting for so many lines of each level."""
    return first * cache.l1_miss_cycles + second * cache.l2_miss_cycles


def test_constants_are_waited_for_where_a_run_touches_more_than_a_cache_holds():
    core = targets.get("cortex-a55").core
    assert core is not None
    c = core.cache
    l1, l2 = c.l1d_kib << 10, c.l2_kib << 10
    way = l1 // c.l1d_ways

    def waits(constants, **others):
        return bound.waits(bound.Traffic(constants, **others), c)

    def cycles(first, second):
        return (first * c.l1_miss_cycles + second * c.l2_miss_cycles) / c.line_bytes

    assert waits(l1) == 0
    # One line more in half of the sets, then in all of them.
    assert waits(l1 + way // 2) == cycles((l1 + way // 2) / 2, 0)
    assert waits(l1 + way) == cycles(l1 + way, 0)
    assert waits(2 * l2) == cycles(2 * l2, 2 * l2)
    # Tensors that are converted are touched in two forms, direct ones in one.
    assert waits(640, direct=(2 * way,) * 2 + (way,)) == cycles(640 + 5 * way, 0)
    assert waits(640, written=(2 * way,)) == cycles(640 * 640 / way, 0)


@pytest.mark.parametrize(
    ("arrays", "share"),
    [
        ([4.0], 0),
        ([4.25], 0.25),
        ([5.0], 1),
        ([1.5, 3.0], 0.5),
        ([2.0, 2.25, 0.5], 0.5),  # a quarter and a half: perhaps in the same sets
        ([3.75, 0.5], 0.25),  # both parts have to meet
        ([3.5, 0.5], 0),  # and need not
        ([3.75, 0.75, 0.75], (2.25 - 1) / 2),
    ],
)
def test_sets_overflow_wherever_arrays_begin(arrays, share):
    assert bound.overflow(arrays, 4) == pytest.approx(share)
    # By placing them: each array begins at a set of its own, 16 of them.
    rng = np.random.default_rng(0)
    for _ in range(50):
        lines = np.zeros(16, int)
        for size in arrays:
            np.add.at(lines, (np.arange(round(size * 16)) + rng.integers(16)) % 16, 1)
        assert np.mean(lines > 4) >= share - 1e-9


def test_tensors_are_filled_as_far_as_no_cache_can_have_kept_them():
    def fills(constants=0, direct=(), read=(), written=(), before=0):
        return bound.fills(bound.Traffic(constants, direct, read, written), 1024, 4, before)

    assert fills(read=(1024,)) == 0
    assert fills(read=(3024,)) == 2000
    assert fills(read=(2000, 1024), before=500) == 1500
    # 400 bytes read in two forms leave 224 of what was written a run ago.
    assert fills(read=(400,), written=(900,)) == 900 - 224
    # However much of each is kept, it is no more than the cache holds.
    assert fills(read=(1000,), written=(1000,)) == max(1000, 2000 - 1024)
    assert fills(constants=256, direct=(2048,)) == 256 + 2048


def test_dense_maps_are_converted_only_by_the_copy_into_own_memory():
    graph = network()
    layers = [x for x in tasks.layers(graph, "neon", "cortex-a53") if x.op.operator == "pointwise"]
    for layer in layers:
        task = tasks.task(graph, layer, "cortex-a53")
        found = bound.traffic(task.candidate({})[0], task.graph, *task.converted)
        maps = [math.prod(graph.tensor(name).shape) for name, _ in layer.needs]
        assert found.read == tuple(maps) and found.written == ()
    assert layers


def test_traffic_of_a_layer_is_counted_by_how_its_tensors_come():
    graph = network()
    for layer in tasks.layers(graph, "dotprod", "cortex-a55"):
        task = tasks.task(graph, layer, "cortex-a55")
        candidate = task.candidate({})[0]
        found = bound.traffic(candidate, task.graph, *task.converted)
        every = sum(t.bytes for t in (*candidate.inputs, *candidate.outputs))
        over = every - sum(found.direct) - sum(found.read) - sum(found.written)
        # A gate writes its result over what it reads; a residual sum may.
        assert over == 0 or sum(found.read) + over > candidate.arena_bytes
        assert layer.op.operator != "gate" or over == sum(found.read)
        assert found.constants == candidate.constant_bytes


@pytest.mark.skipif(llvm.tools() is None, reason="LLVM's tools are not installed")
def test_arithmetic_counts_what_every_schedule_does():
    ran = {SDOT: 100, LDR: 1000, MOV: 1000}
    # One SDOT a cycle on the A55, two on the A76. There, a product of 32 bits keeps one of the pipes for two
    # cycles, and a store takes each of them for one.
    assert bound.of(targets.get("cortex-a55"), ran, NOTHING).cycles == 100
    assert bound.of(targets.get("cortex-a76"), ran, NOTHING).cycles == 50
    assert bound.of(targets.get("cortex-a76"), {SQRDMULH: 10, SDOT: 4}, NOTHING).cycles == 20
    assert bound.of(targets.get("cortex-a76"), {SQRDMULH: 10, SDOT: 40}, NOTHING).cycles == 30
    assert bound.of(targets.get("cortex-a76"), {STR: 10, SDOT: 20}, NOTHING).cycles == 20
