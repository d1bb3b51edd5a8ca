"""The memory planner: nothing alive overlaps, and the arena is as small as it can be."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.codegen.memory import ARENA_ALIGN, MemoryPlan, plan_memory
from mnv3c.codegen.program import Program, Region, Stage


def stage(name: str, reads: str, writes: str, **kwargs: object) -> Stage:
    return Stage(name, name, (name,), tuple(reads.split()), tuple(writes.split()), "", **kwargs)  # type: ignore[arg-type]


def check(program: Program, plan: MemoryPlan) -> None:
    allowed = {frozenset(pair) for s in program.stages for pair in s.in_place}
    for i, a in enumerate(plan.placements):
        assert a.offset % ARENA_ALIGN == 0
        assert a.offset + a.region.bytes <= plan.arena_bytes
        for b in plan.placements[i + 1 :]:
            if a.first > b.last or b.first > a.last or frozenset((a.region.name, b.region.name)) in allowed:
                continue
            apart = a.offset + a.region.bytes <= b.offset or b.offset + b.region.bytes <= a.offset
            assert apart, (a, b)


def test_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [640, 1280, 320, 2560, 64]
    regions = tuple(Region(f"t{i}", n) for i, n in enumerate(sizes))
    stages = [stage("s0", "", "t0")] + [stage(f"s{i}", f"t{i - 1}", f"t{i}") for i in range(1, 5)]
    program = Program("ref", tuple(stages), regions)
    plan = plan_memory(program)
    check(program, plan)
    assert plan.arena_bytes == plan.lower_bound == 2560 + 320


def test_in_place_shares_the_address_only_where_the_source_dies() -> None:
    regions = (Region("a", 640), Region("b", 640), Region("c", 640))
    dies = Program("ref", (stage("s0", "", "a"), stage("s1", "a", "b", in_place=(("a", "b"),))), regions)
    plan = plan_memory(dies)
    assert plan.offset("a") == plan.offset("b")
    assert plan.arena_bytes == 640
    lives = Program("ref", (*dies.stages, stage("s2", "a b", "c")), regions)
    plan = plan_memory(lives)
    check(
        Program("ref", (stage("s0", "", "a"), stage("s1", "a", "b"), stage("s2", "a b", "c")), regions), plan
    )
    assert plan.arena_bytes == 3 * 640


def test_scratch_lives_for_its_stage_and_callers_buffers_take_no_room() -> None:
    regions = (
        Region("in", 5000, external=("input", 0)),
        Region("a", 64),
        Region("out", 9000, external=("output", 0)),
    )
    program = Program(
        "ref",
        (
            stage("s0", "in", "a", scratch=(Region("x", 1000),)),
            stage("s1", "a", "out", scratch=(Region("y", 1000),)),
        ),
        regions,
    )
    plan = plan_memory(program)
    check(program, plan)
    assert plan.arena_bytes == 64 + 1024
    assert {p.region.name for p in plan.placements} == {"a", "x", "y"}


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_never_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 14
    regions = tuple(Region(f"t{i}", int(rng.integers(1, 5000))) for i in range(n))
    stages = []
    for i in range(n):
        reads = " ".join(f"t{j}" for j in sorted(set(rng.integers(0, i, 2).tolist()))) if i else ""
        pairs = ((reads.split()[-1], f"t{i}"),) if reads and rng.random() < 0.3 else ()
        stages.append(stage(f"s{i}", reads, f"t{i}", in_place=pairs))
    program = Program("ref", tuple(stages), regions)
    plan = plan_memory(program)
    check(program, plan)
    assert plan.lower_bound <= plan.arena_bytes <= 1.35 * plan.lower_bound + 512
