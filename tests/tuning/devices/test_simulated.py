"""The simulated core against `mnv3c bench`, another way to the same figures; and its statuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnv3c import targets
from mnv3c.bench import isa, llvm, measure, pricing, qemu
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.reference import integer
from mnv3c.runners import open_library
from mnv3c.tuning.devices import Candidate, Status, open_device, tables
from mnv3c.tuning.devices.simulated import SimulatedDevice
from tests.graphs import Builder, random_inputs
from tests.tuning.devices import candidates as make
from tests.tuning.devices.candidates import convolution


@pytest.fixture(scope="module", params=["qemu", "unicorn"])
def device(request: pytest.FixtureRequest) -> Iterator[SimulatedDevice]:
    if llvm.tools() is None or (request.param == "qemu" and qemu.available() is None):
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "unicorn":
            patch.setattr(qemu, "available", lambda: None)
        found = SimulatedDevice(targets.get("cortex-a55"), timeout_seconds=2)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["dotprod", "neon"])
@pytest.mark.parametrize("core", ["cortex-a55", "cortex-a76"])
def test_figures_are_those_of_bench(path: str, core: str, tmp_path: Path) -> None:
    if qemu.available() is None or llvm.tools() is None:
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    b = Builder(4, "layer")
    graph = b.finish(b.hard_swish(b.conv(b.input(14, 14, 48), 96, dtype="int16")))
    library = build_library(graph, [path], options=Options(tuning=core), settings={"target": core})
    write_folder(tmp_path / "library", library.files)
    counted = measure.measure(open_library(tmp_path / "library"), cpu=core)
    whole = counted.whole.counts
    priced = pricing.price(counted.code, counted.blocks, whole, counted.core).of(whole)

    inputs = random_inputs(graph)
    expected = integer.run(graph, inputs)
    arrays = [inputs[n] for n in graph.inputs], [expected[n] for n in graph.outputs]
    layers = range(len(library.manifest["programs"][path]["layers"]))  # type: ignore[index]
    batch = [
        Candidate.of("whole", library, *arrays),
        *(Candidate.of(str(i), library, *arrays, layers=[i]) for i in layers),
        Candidate.of("all layers", library, *arrays, layers=list(layers)),
    ]
    device = SimulatedDevice(targets.get(core))
    try:
        found = device.measure(batch)
        simulated = device.simulations
    finally:
        device.close()
    assert [m.status for m in found] == [Status.OK] * len(batch)
    # Position-independent code may need an instruction more here and there.
    assert simulated["whole"].instructions == pytest.approx(counted.whole.instructions, rel=0.01)
    assert simulated["whole"].pipeline_cycles == pytest.approx(priced, rel=0.02)
    for i, region in enumerate(counted.layers):
        assert simulated[str(i)].instructions == pytest.approx(region.instructions, rel=0.02, abs=40)
    parts = sum(simulated[str(i)].pipeline_cycles for i in layers)
    assert simulated["all layers"].pipeline_cycles == pytest.approx(parts, rel=0.01)
    assert simulated["all layers"].pipeline_cycles <= simulated["whole"].pipeline_cycles
    for m, c in zip(found, batch, strict=True):
        s, cache = simulated[c.key], targets.get(core).core.cache  # type: ignore[union-attr]
        fills = s.memory.l1_fills * cache.l1_miss_cycles + s.memory.l2_fills * cache.l2_miss_cycles
        assert m.cost == s.pipeline_cycles + fills and m.unit == "cycles"


@pytest.mark.slow
def test_each_failure_costs_its_own_candidate_alone(device: SimulatedDevice) -> None:
    good = convolution("ref")
    batch = [
        make.crashing(good),
        good,
        make.wrong(good),
        make.endless(good),
        make.illegal(good),
        make.not_compiling(good),
        dataclasses.replace(good, key="again"),
        make.not_linking(good),
        make.slower(good, turns=2000),
    ]
    told: list[tuple[int, int]] = []
    found = {m.key: m for m in device.measure(batch, lambda done, total: told.append((done, total)))}
    assert {k: m.status for k, m in found.items()} == {
        "crash": Status.CRASHED,
        "good": Status.OK,
        "wrong": Status.WRONG,
        "endless": Status.TIMEOUT,
        "illegal": Status.CRASHED,
        "no compile": Status.FAILED_TO_BUILD,
        "again": Status.OK,
        "no link": Status.FAILED_TO_BUILD,
        "slow": Status.OK,
    }
    assert "memory" in found["crash"].detail or "MEM" in found["crash"].detail
    assert found["good"].cost == pytest.approx(found["again"].cost, rel=1e-3)
    # The loop loads, adds, stores and branches: between 2 and 20 cycles a turn on a small core.
    parts = 8  # the layer is called once a share
    turns = 2000 * parts
    assert 2 * turns < found["slow"].cost - found["good"].cost < 20 * turns
    assert told[-1] == (len(batch), len(batch))


@pytest.mark.slow
def test_costs_do_not_depend_on_the_batch(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = convolution("dotprod", "one"), convolution("dotprod", "other", seed=9, channels=64)
    alone = device.measure([one])[0].cost
    monkeypatch.setenv("MNV3C_TEST_STACK", "x" * 3001)  # moves the emulated program's stack
    together = [m.cost for m in device.measure([other, one, other])]
    assert together[1] == pytest.approx(alone, rel=1e-3)
    assert together[0] == pytest.approx(together[2], rel=1e-3)
    assert together[0] > 1.5 * together[1]  # four times the channels


def test_a_platform_is_no_core() -> None:
    with pytest.raises(Mnv3cError, match="is a platform"):
        open_device("simulated", "arm64")


@pytest.mark.parametrize("name", [t.name for t in targets.every() if t.core is not None])
def test_every_core_has_a_table_for_what_its_paths_use(name: str) -> None:
    core = targets.get(name).core
    assert core is not None and core.stalls >= 1
    known = {kind for u in core.units for kind in u.kinds}
    needed = {
        "widening multiply",
        "high multiply",
        "narrow",
        "permute",
        "vector load",
        "vector store",
        "integer",
    }
    if "dotprod" in targets.get(name).features:
        needed.add("dot")
    if "i8mm" in targets.get(name).features:
        needed.add("matrix")
    assert needed <= known <= set(isa.CLASSES)


def test_bounds_of_blocks_by_hand() -> None:
    """Cortex-A76: 4 instructions a cycle, 2 vector pipes, one of which multiplies; 2 loads a cycle."""
    core = targets.get("cortex-a76").core
    assert core is not None
    assert tables.bound(core, {"dot": 12, "vector load": 4, "integer": 2, "branch": 1}) == 6
    assert tables.bound(core, {"widening multiply": 4, "vector arithmetic": 2}) == 4
    assert tables.bound(core, {"widening multiply": 4, "vector arithmetic": 6}) == 5
    assert tables.bound(core, {"vector load": 9, "dot": 1}) == 4.5
    assert tables.bound(core, {"integer": 6, "dot": 4, "vector load": 2}) == 3
    # Cortex-A55: two instructions a cycle, one 128-bit vector instruction, one load.
    core = targets.get("cortex-a55").core
    assert core is not None
    assert tables.bound(core, {"dot": 12, "vector load": 4, "integer": 2, "branch": 1}) == 12
    assert tables.bound(core, {"vector load": 7, "dot": 2}) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "path", "error"), [("cortex-a76", "dotprod", 0.4), ("cortex-a72", "neon", 0.4)]
)
def test_tables_where_llvm_is_missing(
    core: str, path: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if qemu.available() is None or llvm.tools() is None:
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    batch = [convolution(path, "small"), convolution(path, "large", channels=96)]
    costs = {}
    for have_llvm in (True, False):
        if not have_llvm:
            monkeypatch.setattr(llvm, "tools", lambda: None)
        device = SimulatedDevice(targets.get(core))
        costs[have_llvm] = [m.cost for m in device.measure(batch)]
        assert bool(device.notes) is not have_llvm
        assert ("stalls" in device.method) is not have_llvm
        device.close()
    assert costs[False] == pytest.approx(costs[True], rel=error)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "layer"), [("dotprod", 1), ("neon", 0)])
def test_unicorn_counts_what_qemu_counts(path: str, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if qemu.available() is None or llvm.tools() is None:
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    whole = convolution(path, "whole", channels=48)
    last = dataclasses.replace(whole, key="one layer", layers=(layer,))
    found = []
    for have_qemu in (True, False):
        if not have_qemu:
            monkeypatch.setattr(qemu, "available", lambda: None)
        device = SimulatedDevice(targets.get("cortex-a55"))
        assert all(m.ok for m in device.measure([whole, last]))
        assert bool(device.notes) is not have_qemu
        found.append(device.simulations)
        device.close()
    by_qemu, by_unicorn = found
    # The programs differ in memcpy, which the layers around the convolution call.
    for key, error in (("whole", 0.25), ("one layer", 0.02)):
        assert by_unicorn[key].instructions == pytest.approx(by_qemu[key].instructions, rel=error)
        assert by_unicorn[key].pipeline_cycles == pytest.approx(by_qemu[key].pipeline_cycles, rel=error)
        assert by_unicorn[key].memory.l1_fills == 0
    assert by_unicorn["one layer"].instructions <= by_unicorn["whole"].instructions
