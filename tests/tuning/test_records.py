from __future__ import annotations

import json

import pytest

from mnv3c import targets
from mnv3c.errors import Mnv3cError
from mnv3c.tuning import records, tasks
from mnv3c.tuning.records import Record, Records
from tests.tuning.networks import network

CORE = targets.get("cortex-a55")


def some() -> Records:
    ops = {layer.op: layer for layer in tasks.layers(network(), "dotprod", CORE.name)}
    schedules = {"pointwise": {"unroll": 1}, "block": {"band_rows": 1}, "vector": {"quads": 1}}
    made = [
        Record(op, "clang 19", schedules.get(op.operator, {}), 90.0, 100.0, "cycles", "simulated cortex-a55")
        for op in ops
    ]
    return Records(CORE.name).merged(made)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    records.save(path, some())
    return path


def test_what_is_written_is_read_again_and_written_the_same(file):
    read = records.load(file, CORE)
    assert read == some() and records.dumps(read) == file.read_text()
    assert all(len(line) < 700 for line in file.read_text().splitlines())


def test_merging_keeps_the_newer_and_the_others():
    old = some()
    op = next(op for op, _ in old.found if op.operator == "vector")
    newer = Record(op, "clang 20", {"quads": 2}, 80.0, 100.0, "cycles", "x")
    other = Record(op, "gcc 12", {}, 100.0, 100.0, "cycles", "x")
    both = old.merged([newer, other])
    assert len(both.found) == len(old.found) + 1
    assert both.get(op, "clang") is newer and both.get(op, "gcc") is other


def test_a_search_that_was_stopped_early_takes_nothing_back():
    old = some()
    op = next(op for op, _ in old.found if op.operator == "vector")
    before = old.get(op, "clang")
    less = Record(op, before.compiler, {}, before.default_cost, before.default_cost, "cycles", before.device)
    assert old.merged([less]).get(op, "clang") is before
    other_kernels = Record(op, before.compiler, {}, 150.0, 150.0, "cycles", before.device)
    assert old.merged([other_kernels]).get(op, "clang") is other_kernels


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def first(content, operator):
    return next(r for r in content["records"] if r["operator"] == operator)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(format=99), "format 99; this version reads 1"),
        (lambda c: c.update(format="1"), "format '1'"),
        (lambda c: c.update(core="cortex-a76"), "for 'cortex-a76', not for cortex-a55"),
        (lambda c: c.update(records=None), "no list of records"),
        (lambda c: c["records"][0].pop("cost"), "a record has the fields"),
        (lambda c: c["records"][0].update(cost="1"), "cost cannot be '1'"),
        (lambda c: c["records"][0].update(cost=-1.0), "not a positive number"),
        (lambda c: c["records"][0].update(schedule=[1]), r"schedule cannot be \[1\]"),
        (lambda c: c["records"][0].update(compiler="tcc 1"), "unknown compiler 'tcc 1'"),
        (lambda c: c["records"].append(3), "a record has the fields"),
        (
            lambda c: first(c, "vector")["schedule"].update(quads=5000),
            "illegal schedule for vector on dotprod",
        ),
        (lambda c: first(c, "block")["schedule"].update(band_rows=[1]), "band_rows cannot be"),
        (lambda c: first(c, "pointwise")["schedule"].update(tile="4x4096"), "tile cannot be '4x4096'"),
        (lambda c: first(c, "block")["shape"].pop("stride"), "shape of block is not complete"),
        (lambda c: first(c, "block")["shape"].update(stride="no"), "shape of block is not complete"),
        (lambda c: first(c, "block")["shape"].update(block_out="0x0"), "shape of block is not complete"),
        (lambda c: first(c, "vector").update(operator="sort", schedule={"a": 1}), "it has no knob 'a'"),
    ],
)
def test_bad_records_are_refused_in_one_line(file, edit, words):
    change(file, edit)
    with pytest.raises(Mnv3cError, match=words) as caught:
        records.load(file, CORE)
    assert str(file) in caught.value.place and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"records": 3}', "\x00\x01", "[" * 100_000])
def test_damaged_files_are_refused_in_one_line(file, text):
    file.write_text(text)
    with pytest.raises(Mnv3cError, match="damaged records"):
        records.load(file, CORE)


def test_missing_file_and_other_compiler(file, tmp_path):
    with pytest.raises(Mnv3cError, match="cannot read"):
        records.load(tmp_path / "none.json", CORE)
    assert records.load(file, CORE, "clang").found
    with pytest.raises(Mnv3cError, match="records for the compiler clang 19, none for gcc"):
        records.load(file, CORE, "gcc")


def test_every_shipped_file_is_good():
    folder = records.shipped(CORE).parent
    files = sorted(folder.glob("*.json"))
    for path in files:
        core = targets.get(path.stem)
        read = records.load(path, core)
        assert read.found and records.dumps(read) == path.read_text()
        assert not any("emulated" in r.device for r in read.found.values())
        assert all(r.cost <= r.default_cost for r in read.found.values())
