"""Measuring on this machine: the path ``ref`` runs on any host. The shim is the one that devices run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from mnv3c import targets
from mnv3c.errors import Mnv3cError
from mnv3c.toolchain.compiler import host_is_arm
from mnv3c.tuning.devices import Status, open_device
from mnv3c.tuning.devices.native import NativeDevice
from tests.tuning.devices import candidates as make
from tests.tuning.devices.candidates import QUICK, convolution


@pytest.fixture(scope="module")
def device() -> Iterator[NativeDevice]:
    found = NativeDevice(targets.get("cortex-a76"), timing=QUICK)
    yield found
    found.close()


@pytest.mark.slow
def test_each_failure_costs_its_own_candidate_alone(device: NativeDevice) -> None:
    good = convolution()
    batch = [
        good,
        make.crashing(good),
        make.illegal(good),
        make.endless(good),
        make.wrong(good),
        make.overrunning(good),
        make.not_compiling(good),
        make.not_linking(good),
        dataclasses.replace(good, key="last"),
    ]
    told: list[tuple[int, int]] = []
    found = device.measure(batch, lambda done, total: told.append((done, total)))
    assert [m.key for m in found] == [c.key for c in batch]
    assert {m.key: m.status for m in found} == {
        "good": Status.OK,
        "crash": Status.CRASHED,
        "illegal": Status.CRASHED,
        "endless": Status.TIMEOUT,
        "wrong": Status.WRONG,
        "overrun": Status.CRASHED,
        "no compile": Status.FAILED_TO_BUILD,
        "no link": Status.FAILED_TO_BUILD,
        "last": Status.OK,
    }
    by_key = {m.key: m for m in found}
    assert by_key["crash"].detail == by_key["overrun"].detail == "bad memory access"
    assert "1 of 1024 bytes differ, first at 5" in by_key["wrong"].detail
    assert "this does not compile" in by_key["no compile"].detail
    assert "is_nowhere" in by_key["no link"].detail
    assert told == [(i + 1, len(batch)) for i in range(len(batch))]
    for m in found:
        assert m.ok == (m.cost < float("inf")) and "\n" not in m.detail


def test_more_work_takes_longer_and_samples_are_of_single_runs(device: NativeDevice) -> None:
    good = convolution()
    plain, slow = device.measure([good, make.slower(good, turns=2_000_000)])
    assert plain.ok and slow.ok and plain.unit == "s" and plain.repeats == QUICK.repeats
    # 8 x 8 x 16 x 16 multiply-accumulates: some 10 us; a busy machine takes its time away in slices of ms.
    assert 1e-7 < plain.cost < 0.1
    # Sixteen million turns take more than a millisecond each billionth of a second.
    assert slow.cost > max(1e-3, plain.cost)
    assert 1e7 < plain.clock < 2e10


def test_only_the_layers_that_count_are_timed(device: NativeDevice) -> None:
    slow = make.slower(convolution())
    assert len(slow.layers) == 0
    whole, none = device.measure([slow, dataclasses.replace(slow, key="other layer", layers=(7,))])
    first = device.measure([dataclasses.replace(slow, layers=(0,))])[0]
    # More than a million turns; how much more is the machine's business.
    assert whole.cost > 1e-4 and first.cost > 1e-4
    assert none.cost == 0.0  # there is no layer 7


def test_batches_follow_each_other(device: NativeDevice) -> None:
    """A second shared object must not be taken for the first."""
    one, other = convolution(seed=1, key="one"), convolution(seed=2, key="other", channels=24)
    assert [m.status for m in device.measure([one])] == [Status.OK]
    assert [m.status for m in device.measure([other, one])] == [Status.OK, Status.OK]
    assert device.measure([]) == []


def test_what_cannot_run_here_is_refused_in_one_line(device: NativeDevice) -> None:
    if host_is_arm():
        pytest.skip("an Arm machine runs it")
    with pytest.raises(Mnv3cError, match="only ref runs"):
        device.measure([convolution("neon")])


def test_devices_by_name() -> None:
    opened = open_device("native", "a76", timing=QUICK)
    assert opened.name == "this machine" and opened.unit == "s"
    opened.close()
    with pytest.raises(Mnv3cError, match="unknown device 'usb'"):
        open_device("usb", "a76")
    with pytest.raises(Mnv3cError, match="is a platform"):
        open_device("native", "arm64")


@pytest.mark.parametrize(
    ("options", "cpus"), [("cpus=0", (0,)), ("cpus=4,6-7", (4, 6, 7)), ("cpus=1-1,0", (0, 1))]
)
def test_cores_of_a_device_by_number(options: str, cpus: tuple[int, ...]) -> None:
    device = open_device(f"native?{options}", "a76")
    assert isinstance(device, NativeDevice) and device.timing.cpus == cpus
    device.close()


@pytest.mark.parametrize("options", ["", "cpu=1", "cpus=", "cpus=a", "cpus=7-4", "cpus=99", "cpus=1;2"])
def test_bad_cores_are_refused(options: str) -> None:
    with pytest.raises(Mnv3cError, match=r"cpus=4,6-7|numbered"):
        open_device(f"native?{options}", "a76")
    with pytest.raises(Mnv3cError):
        open_device("simulated?cpus=1", "a76")
