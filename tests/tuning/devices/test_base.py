"""What is made of a device's report, and how candidates are kept apart in one object."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mnv3c.bench import llvm
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.runners import open_library
from mnv3c.tuning.devices import Candidate, Measurement, Status, Timing, timed
from mnv3c.tuning.devices.base import Raw, judge, wrong_bytes
from mnv3c.tuning.devices.bundle import units
from mnv3c.tuning.devices.prices import form
from tests.graphs import Builder
from tests.tuning.devices.candidates import convolution


def _raw(candidate: Candidate, samples: tuple[float, ...], **changes: object) -> Raw:
    plain = Raw(0, 0, (2e9, 2e9), 3, samples, candidate.expected)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_median_counts_and_the_quartiles_are_the_spread() -> None:
    c = convolution()
    samples = (1.0, 2.0, 3.0, 4.0, 100.0)
    m = judge(c, _raw(c, samples), Timing(noise=100.0, drift=1.0))
    low, _, high = np.quantile([*samples], [0.25, 0.5, 0.75], method="weibull")
    assert (m.status, m.cost, m.repeats) == (Status.OK, 3.0, 5)
    assert m.spread == pytest.approx((high - low) / 3.0)
    assert not m.notes and m.clock == 2e9


def test_noise_and_throttling_are_noted() -> None:
    c = convolution()
    calm = (1.0,) * 9
    assert judge(c, _raw(c, calm), Timing()).notes == ()
    noisy = judge(c, _raw(c, (1.0, 1.3, 1.0, 1.3, 1.0, 1.3, 1.0, 1.3)), Timing())
    assert len(noisy.notes) == 1 and "noisy" in noisy.notes[0]
    slower_clock = judge(c, _raw(c, calm, clocks=(2e9, 1.5e9)), Timing())
    assert "25%" in slower_clock.notes[0] and "throttling" in slower_clock.notes[0]
    slower_samples = judge(c, _raw(c, (1.0,) * 3 + (1.02,) * 3 + (1.2,) * 3), Timing(noise=1.0))
    assert "throttling" in slower_samples.notes[0]


@pytest.mark.parametrize(
    ("code", "detail", "status", "text"),
    [
        (1, 11, Status.CRASHED, "bad memory access"),
        (1, 4, Status.CRASHED, "illegal instruction"),
        (1, 0, Status.CRASHED, "the process ended"),
        (2, 0, Status.TIMEOUT, "did not end within 10 s"),
        (3, 2, Status.CRASHED, "layer_run returned 2"),
        (4, 0, Status.LOST, "no memory or process"),
    ],
)
def test_each_code_of_the_shim(code: int, detail: int, status: Status, text: str) -> None:
    m = judge(convolution(), Raw(code, detail), Timing())
    assert m.status is status and text in m.detail and m.cost == float("inf") and not m.ok


def test_a_wrong_byte_has_no_cost() -> None:
    c = convolution()
    damaged = bytearray(c.expected[0])
    damaged[17] ^= 4
    assert wrong_bytes(c, c.expected) is None
    m = judge(c, _raw(c, (1.0,), outputs=(bytes(damaged),)), Timing())
    assert m.status is Status.WRONG and "first at 17" in m.detail and m.cost == float("inf")
    assert "1023 bytes, expected 1024" in str(wrong_bytes(c, (c.expected[0][:-1],)))


def test_a_doubtful_measurement_is_repeated_and_the_better_one_kept() -> None:
    c = convolution()
    calls: list[Timing] = []

    def call(timing: Timing) -> Raw:
        calls.append(timing)
        return _raw(c, (1.0, 2.0) * 4 if len(calls) == 1 else (1.0,) * 8)

    m = timed.steady(c, call, Timing(cool_down_seconds=0.1))
    assert [t.cool_down_seconds for t in calls] == [0.1, 1.0] and m.notes == () and m.cost == 1.0
    calls.clear()
    assert timed.steady(c, lambda t: _raw(c, (1.0,) * 8), Timing()).ok


def test_a_known_candidate_that_changed_is_noted_on_all() -> None:
    ok, lost = Measurement("a", Status.OK, 1.0), Measurement("b", Status.LOST)
    again = Measurement("a", Status.OK, 1.2)
    noted = timed.with_drift([ok, lost], ok, again, Timing())
    assert "20% slower" in noted[0].notes[0] and noted[1] == lost
    assert timed.with_drift([ok], ok, dataclasses.replace(again, cost=1.01), Timing()) == [ok]


def test_identity_of_a_core() -> None:
    # Main ID registers: Cortex-A76 r4p1, Cortex-A55 r1p0; another maker's core; nothing.
    assert timed.identity(0x414FD0B1) == timed.Identity("cortex-a76", False)
    assert timed.identity(0x411FD050 | 1 << 32) == timed.Identity("cortex-a55", True)
    assert timed.identity(0x511F8040).core == "core 0x511f8040"
    assert timed.identity(0) == timed.Identity("", False)


def test_settings_and_cores() -> None:
    timing = Timing(repeats=5, sample_seconds=0.002, timeout_seconds=3, cool_down_seconds=0.5, cpus=(4, 7, 4))
    assert timed.settings(timing) == [5, 2_000_000, 3_000_000_000, 500_000_000, 0b1001_0000]


def test_candidates_from_memory_and_from_a_folder_are_equal(tmp_path) -> None:
    b = Builder(3, "layer")
    graph = b.finish(b.conv(b.input(4, 4, 8), 8))
    library = build_library(graph, ["ref"])
    write_folder(tmp_path / "lib", library.files)
    arrays = [np.zeros((4, 4, 8), np.int8)]
    first = Candidate.of("k", library, arrays, arrays, (0,))
    second = Candidate.from_folder("k", open_library(tmp_path / "lib"), arrays, arrays, (0,))
    assert vars(first) == vars(second)
    with pytest.raises(Mnv3cError, match="one is measured at a time"):
        Candidate.of("k", build_library(graph, ["neon", "ref"]), arrays, arrays)
    with pytest.raises(Mnv3cError, match="inputs"):
        Candidate.of("k", library, [np.zeros((4, 4, 9), np.int8)], arrays)


def test_equal_constants_are_one_object_and_other_symbols_differ() -> None:
    one = convolution()
    name = "layer_ref.c"
    other = dataclasses.replace(one, sources={**one.sources, name: one.sources[name] + "\n/* other */\n"})
    (symbol, (code, constants)), (symbol_2, (code_2, constants_2)) = units(one), units(other)
    assert constants == constants_2 and code.digest != code_2.digest and symbol != symbol_2
    assert symbol.endswith("_layer_run") and f"#define layer_run {symbol}\n" in code.text
    assert units(dataclasses.replace(one, key="again"))[0] == symbol


def test_doubts_are_summed_up() -> None:
    doubts = timed.Doubts()
    ok = Measurement("a", Status.OK, 1.0)
    doubts.add([ok, dataclasses.replace(ok, notes=("noisy: ...", "... throttling"))])
    doubts.add([dataclasses.replace(ok, notes=("noisy: ...",)), Measurement("b", Status.LOST)])
    noisy, throttled = doubts.notes
    assert noisy.startswith("2 of 4 measurements were noisy") and throttled.startswith("1 of 4 measurements")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sdot v7.4s, v3.16b, v9.4b[2]", "sdot v0.4s, v1.16b, v2.4b[2]"),
        ("add x5, x5, x9, lsl #2", "add x0, x0, x1, lsl #2"),
        ("ldr q4, [x7, #0x30]", "ldr q0, [x0, #16]"),
        ("ldp x29, x30, [sp, #-32]!", "ldp x0, x1, [sp, #16]!"),
        ("ldr q4, [x7], #64", "ldr q0, [x0], #64"),
        ("tbl v1.16b, { v4.16b, v5.16b }, v1.16b", "tbl v1.16b, { v4.16b, v5.16b }, v1.16b"),
        ("movi v6.4s, #0x3", "movi v0.4s, #0x3"),
        ("fmov w3, s3", "fmov w0, s0"),
        ("nop", "nop"),
    ],
)
def test_forms_of_instructions(text: str, expected: str) -> None:
    assert form(text) == expected


@pytest.mark.skipif(llvm.tools() is None, reason="llvm-mc and llvm-mca are not installed")
def test_an_instruction_is_timed_as_its_form() -> None:
    texts = ["sdot v7.4s, v3.16b, v9.16b", "ldr q4, [x7, #48]", "add x5, x5, x9, lsl #2", "str q9, [x3], #16"]
    texts += ["smlal2 v20.4s, v1.8h, v2.8h", "ldp q8, q9, [x20, #-32]", "b.ne #-12", "subs x3, x3, #1"]
    for core in ("cortex-a53", "cortex-a55"):
        plain, forms = llvm.timings(texts, core), llvm.timings([form(t) for t in texts], core)
        assert [plain[t] for t in texts] == [forms[form(t)] for t in texts]
