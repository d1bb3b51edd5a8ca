from __future__ import annotations

import pytest

from mnv3c import targets
from mnv3c.tuning import records
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.records import Records
from mnv3c.tuning.session import Session, Settings
from tests.tuning.networks import MadeUpDevice, network

pytest.importorskip("optuna")
CORE = targets.get("cortex-a55")


def search(device, journal=None, **settings):
    told = []
    session = Session(
        network(),
        "dotprod",
        CORE,
        device,
        "clang 19",
        Settings(**{"trials": 12, **settings}),
        journal or Journal(None, device.name, "clang 19"),
        told.append,
    )
    return session.run(), told


def text(outcome):
    return records.dumps(Records(CORE.name).merged(outcome.records))


@pytest.fixture(scope="module")
def whole():
    device = MadeUpDevice()
    outcome, told = search(device)
    return device, outcome, told


def test_it_finds_better_schedules_and_a_better_network(whole):
    device, outcome, told = whole
    assert outcome.complete and not outcome.failed
    assert outcome.best_cost < outcome.default_cost
    assert all(r.cost <= r.default_cost for r in outcome.records)
    assert any(r.schedule for r in outcome.records)
    assert len(device.seen) == len(set(device.seen)) == outcome.measured
    assert told[-1].best < told[-1].default and told[-1].measured == outcome.measured + outcome.known


def test_same_seed_same_records(whole):
    again, _ = search(MadeUpDevice())
    assert text(again) == text(whole[1])


def test_interrupted_and_gone_on_with_it_ends_the_same(whole, tmp_path):
    path = tmp_path / "journal"
    first, _ = search(MadeUpDevice(stop_after=4), Journal(path, "made up", "clang 19"))
    assert not first.complete and first.records
    path.write_text(path.read_text() + '{"device": "made')  # cut while it was written
    device = MadeUpDevice()
    second, _ = search(device, Journal(path, "made up", "clang 19"))
    assert second.complete and text(second) == text(whole[1])
    assert second.measured == whole[1].measured - first.measured and second.known >= first.measured
    third = MadeUpDevice()
    search(third, Journal(path, "made up", "clang 19"))
    assert third.seen == []


def test_a_journal_is_of_one_device_and_compiler(tmp_path):
    path = tmp_path / "journal"
    Journal(path, "made up", "clang 19").add("k", 3.0)
    assert Journal(path, "made up", "clang 19").get("k") == 3.0
    assert Journal(path, "made up", "gcc 12").get("k") is None
    assert Journal(path, "other", "clang 19").get("k") is None


def test_no_time_is_no_search():
    device = MadeUpDevice()
    outcome, _ = search(device, seconds=0.0)
    assert not outcome.complete and outcome.records == () and device.seen == []


def test_candidates_that_fail_cost_themselves_alone():
    device = MadeUpDevice(fails=lambda c: int(c.key[0], 16) < 5)
    outcome, _ = search(device)
    assert outcome.complete and outcome.failed
    assert all(reason == "crashed: as told" for _, _, reason in outcome.failed)
    assert outcome.records and all(r.cost < 2000 for r in outcome.records)


def test_a_real_device_gets_the_finalists_alone(whole):
    _, prior, _ = whole
    device = MadeUpDevice(lambda c: float(int(c.key[:4], 16) + 1))
    device.unit = "s"
    journal = Journal(None, device.name, "clang 19")
    session = Session(network(), "dotprod", CORE, device, "clang 19", Settings(), journal)
    outcome = session.finals(prior, 3)
    ops = {layer.op for layer in (*prior.best, *prior.default)}
    assert outcome.complete and 0 < len(device.seen) <= 4 * len(ops)
    assert {r.op for r in outcome.records} == ops and all(r.unit == "s" for r in outcome.records)
    assert all(r.cost <= r.default_cost for r in outcome.records)
