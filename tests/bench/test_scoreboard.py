"""The in-order model on sequences whose cycles are counted by hand, on a made-up core."""

from __future__ import annotations

import random

import pytest

from mnv3c.bench import llvm, scoreboard
from mnv3c.bench.llvm import Timing, Use
from mnv3c.bench.operands import parse
from mnv3c.bench.scoreboard import block_cycles


def timing(latency: int, cycles: float, *units: str) -> Timing:
    return Timing(latency, (Use(units, cycles),), cycles / len(units))


ALU = timing(1, 1.0, "alu.0", "alu.1")
VECTOR = timing(4, 1.0, "vector")
LOAD = timing(4, 1.0, "load")
BRANCH = timing(1, 1.0, "branch")


def cycles(*lines: tuple[str, Timing], width: int = 2) -> float:
    return block_cycles([text for text, _ in lines], dict(lines), width)


def test_independent_instructions_fill_the_width():
    block = [(f"add x{i}, x8, x9", ALU) for i in range(4)]
    assert cycles(*block) == 2
    assert cycles(*block, width=1) == 4


def test_units_limit_the_width():
    block = [(f"add x{i}, x8, x9", ALU) for i in range(6)]
    # Three may issue in a cycle, but there are units for two.
    assert cycles(*block, width=3) == pytest.approx(3)


def test_a_chain_costs_its_latencies():
    assert cycles(*[(f"add x0, x0, x{i}", ALU) for i in range(1, 5)]) == 4
    assert cycles(("add v0.4s, v0.4s, v1.4s", VECTOR), ("add v0.4s, v0.4s, v2.4s", VECTOR)) == 8


def test_accumulators_are_forwarded_between_multiply_accumulates_of_one_kind():
    chain = [(f"sdot v0.4s, v1.16b, v2.4b[{i}]", VECTOR) for i in range(4)]
    assert cycles(*chain) == 4
    # Two kinds in turn wait for the full latency each time.
    mixed = [("sdot v0.4s, v1.16b, v2.4b[0]", VECTOR), ("mla v0.4s, v1.4s, v3.4s", VECTOR)]
    assert cycles(*mixed) == 8


def test_a_factor_is_not_forwarded():
    # Each reads what the other one wrote, as a factor: 4 + 4.
    assert cycles(("mla v0.4s, v1.4s, v3.4s", VECTOR), ("mla v1.4s, v0.4s, v3.4s", VECTOR)) == 8


def test_a_load_and_its_use():
    # The add waits 4 cycles for its load; the next iteration's load shares the add's cycle.
    assert cycles(("ldr q0, [x1]", LOAD), ("add v1.4s, v2.4s, v0.4s", VECTOR)) == 4


def test_an_updated_address_is_there_in_the_next_cycle():
    assert cycles(("ldr q0, [x1], #16", LOAD), ("ldr q2, [x1], #16", LOAD)) == 2
    # An address that is loaded takes the load's latency.
    assert cycles(("ldr x1, [x1]", LOAD)) == 4


def test_a_unit_that_stays_busy():
    slow = timing(8, 3.0, "vector")
    assert cycles(("mul v0.4s, v1.4s, v2.4s", slow), ("add x0, x1, x2", ALU)) == 3


def test_an_instruction_that_takes_all_units_of_a_kind():
    wide = timing(4, 2.0, "vector.0", "vector.1")
    narrow = timing(4, 1.0, "vector.0", "vector.1")
    # Two 64-bit halves: one full-width instruction a cycle, or two half-width ones.
    assert cycles(("add v0.4s, v8.4s, v9.4s", wide), ("add v1.4s, v8.4s, v9.4s", wide)) == 2
    assert cycles(("add v0.2s, v8.2s, v9.2s", narrow), ("add v1.2s, v8.2s, v9.2s", narrow)) == 1


def test_flags_carry_from_the_compare_to_the_branch():
    # In each cycle the branch of one iteration goes with the subtraction of the next.
    assert cycles(("subs x0, x0, #1", ALU), ("b.ne #-8", BRANCH)) == 1


def test_issue_is_in_order():
    # The second add could go at once, but waits behind the first, which waits for the load.
    block = (("ldr x0, [x1]", LOAD), ("add x2, x0, x3", ALU), ("add x4, x5, x6", ALU))
    assert cycles(*block) == pytest.approx(4.5, abs=0.51)


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("add x0, x1, x2", {"x1", "x2"}, {"x0"}),
        ("add w0, w1, #4", {"x1"}, {"x0"}),
        ("mov x0, xzr", set(), {"x0"}),
        ("sdot v0.4s, v1.16b, v2.4b[1]", {"v0", "v1", "v2"}, {"v0"}),
        ("smull v0.8h, v1.8b, v2.8b", {"v1", "v2"}, {"v0"}),
        ("smlal2 v0.8h, v1.16b, v2.16b", {"v0", "v1", "v2"}, {"v0"}),
        ("sadalp v0.4s, v1.8h", {"v0", "v1"}, {"v0"}),
        ("sqrdmulh v0.4s, v1.4s, v2.s[1]", {"v1", "v2"}, {"v0"}),
        ("sqrdmlah v0.8h, v1.8h, v2.8h", {"v0", "v1", "v2"}, {"v0"}),
        ("sqxtn v0.4h, v1.4s", {"v1"}, {"v0"}),
        ("sqxtn2 v0.8h, v1.4s", {"v0", "v1"}, {"v0"}),
        ("sqrshrn2 v0.8h, v1.4s, #3", {"v0", "v1"}, {"v0"}),
        ("mov v0.s[1], w2", {"v0", "x2"}, {"v0"}),
        ("mov v0.16b, v1.16b", {"v1"}, {"v0"}),
        ("tbl v0.16b, { v1.16b, v2.16b }, v3.16b", {"v1", "v2", "v3"}, {"v0"}),
        ("orr v0.4s, #1", {"v0"}, {"v0"}),
        ("orr v0.16b, v1.16b, v2.16b", {"v1", "v2"}, {"v0"}),
        ("umov w0, v1.b[3]", {"v1"}, {"x0"}),
        ("movk x0, #1, lsl #16", {"x0"}, {"x0"}),
        ("subs x0, x1, #1", {"x1"}, {"x0", "nzcv"}),
        ("cmp x0, x1", {"x0", "x1"}, {"nzcv"}),
        ("csel x0, x1, x2, lt", {"x1", "x2", "nzcv"}, {"x0"}),
        ("b.ne #-8", {"nzcv"}, set()),
        ("cbz x3, #16", {"x3"}, set()),
        ("bl #64", set(), {"x30"}),
        ("ldr q0, [x1, x2]", {"x1", "x2"}, {"v0"}),
        ("ldp q0, q1, [x2, #32]", {"x2"}, {"v0", "v1"}),
        ("ldr q0, [x1], #16", {"x1"}, {"v0"}),
        ("ld1 { v0.16b, v1.16b }, [x3], #32", {"x3"}, {"v0", "v1"}),
        ("ld1 { v30.16b - v1.16b }, [x3]", {"x3"}, {"v30", "v31", "v0", "v1"}),
        ("ld1 { v0.s }[1], [x3]", {"v0", "x3"}, {"v0"}),
        ("ld1r { v0.4s }, [x3]", {"x3"}, {"v0"}),
        ("str q0, [x1, #16]!", {"v0", "x1"}, set()),
        ("st1 { v0.8b }, [x0], x1", {"v0", "x0", "x1"}, set()),
        ("ldr x0, [sp, #8]", {"sp"}, {"x0"}),
    ],
)
def test_operands(text, reads, writes):
    operands = parse(text)
    assert set(operands.reads) == reads
    assert set(operands.writes) == writes


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("ldr q0, [x1], #16", "x1"),
        ("ldr q0, [x1, #16]!", "x1"),
        ("ldr q0, [x1, #16]", None),
        ("ldr q0, [x1, x2, lsl #4]", None),
        ("st1 { v0.8b }, [x0], x1", "x0"),
        ("ld1 { v0.s }[1], [x3], #4", "x3"),
        ("ld1 { v0.s }[1], [x3]", None),
        ("stp x29, x30, [sp, #-32]!", "sp"),
    ],
)
def test_updated_addresses(text, base):
    assert parse(text).updated_base == base


def test_only_the_accumulator_is_one():
    assert parse("sdot v0.4s, v1.16b, v2.16b").accumulator == "v0"
    assert parse("smull v0.8h, v1.8b, v2.8b").accumulator is None
    assert parse("mov v0.s[1], w2").accumulator is None


@pytest.mark.skipif(llvm.tools() is None, reason="llvm-mc and llvm-mca are not installed")
def test_units_that_llvm_knows():
    """Cortex-A55 Software Optimization Guide: 128-bit vector work one a cycle, 64-bit work two a cycle;
    two integer units; one load a cycle; SDOT has a latency of 4."""
    block = {
        "sdot": [f"sdot v{i}.4s, v30.16b, v31.16b" for i in range(8)],
        "add 64": [f"add v{i}.2s, v30.2s, v31.2s" for i in range(8)],
        "add": [f"add x{i}, x10, x11" for i in range(8)],
        "ldr": [f"ldr q{i}, [x{i}]" for i in range(8)],
    }
    timings = llvm.timings([t for texts in block.values() for t in texts], "cortex-a55")
    assert timings[block["sdot"][0]].latency == 4
    found = {name: block_cycles(texts, timings, 2) for name, texts in block.items()}
    assert found == {"sdot": 8, "add 64": 4, "add": 4, "ldr": 8}


@pytest.mark.skipif(llvm.tools() is None, reason="llvm-mc and llvm-mca are not installed")
def test_units_of_which_any_will_do():
    # Two vector pipes under names of their own, of which LLVM picks one: the order must not matter.
    texts = [f"sdot v{i}.4s, v30.16b, v31.16b" for i in range(8)]
    for order in (texts, texts[::-1], [t for t in texts for _ in range(2)]):
        assert block_cycles(texts, llvm.timings(order, "cortex-a510"), 3) == pytest.approx(4)


@pytest.mark.parametrize("seed", range(12))
def test_a_block_that_has_settled_is_not_simulated_on(seed):
    """The shortcut gives what all iterations give."""
    rng = random.Random(seed)
    kinds = [
        timing(rng.randint(1, 8), rng.randint(1, 3), *rng.sample("abc", rng.randint(1, 2))) for _ in range(4)
    ]
    lines = []
    for _ in range(rng.randint(2, 25)):
        to, x, y = (rng.randrange(6) for _ in range(3))
        lines.append((f"sdot v{to}.4s, v{x}.16b, v{y}.16b", kinds[0]))
        lines.append((f"ldr q{x}, [x{y}], #16", kinds[1]))
        lines.append((f"add x{to}, x{x}, x{y}", rng.choice(kinds[2:])))
    chosen = rng.sample(lines, rng.randint(1, len(lines)))
    core = scoreboard._Core(2)
    ends = [core.now]
    for _ in range(24):
        for text, cost in chosen:
            core.issue(parse(text), cost)
        ends.append(core.now)
    texts = [f"{text} // {i}" for i, (text, _) in enumerate(chosen)]
    timings = dict(zip(texts, (cost for _, cost in chosen), strict=True))
    assert block_cycles(texts, timings, 2) == pytest.approx((ends[24] - ends[12]) / 12, abs=1e-9)
