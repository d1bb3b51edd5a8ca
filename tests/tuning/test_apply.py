"""Records in use: a network compiled with them, bit for bit the same."""

from __future__ import annotations

import random

import pytest

from mnv3c import targets
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.errors import Mnv3cError
from mnv3c.tuning import records, space, tasks
from mnv3c.tuning.apply import apply, sources
from mnv3c.tuning.records import Record, Records
from tests.paths.harness import check_graph
from tests.tuning.networks import network

CORES = {"dotprod": "cortex-a55", "i8mm": "cortex-a510"}


def random_records(graph, path, core, seed):
    """A random legal schedule and a random cost for every layer that the network may have."""
    rng = random.Random(seed)
    target = targets.get(core)
    made = []
    for layer in tasks.variants(graph, path, core):
        table = space.candidates(layer.op, target)
        schedule = {k: rng.choice(values) for k, values in table.items() if rng.random() < 0.7}
        made.append(Record(layer.op, "clang 19", schedule, rng.uniform(1e3, 1e5), 1e5, "cycles", "made up"))
    return Records(core).merged(made)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("path", CORES)
def test_any_legal_schedules_compute_the_same_bits(path, seed, tmp_path):
    graph, core = network(), targets.get(CORES[path])
    found = apply(graph, path, core, [random_records(graph, path, core.name, seed)], "clang")
    assert found.tuned
    options = Options(core.name, "fast", found.schedules, found.tuned)
    check_graph(graph, path, tmp_path / "library", options=options, runs=1)


def test_the_plan_of_the_records_is_what_the_library_has():
    graph, core = network(), targets.get("cortex-a55")
    found = apply(graph, "dotprod", core, [random_records(graph, "dotprod", core.name, 0)], "clang")
    options = Options(core.name, "fast", found.schedules, found.tuned)
    library = build_library(graph, ("dotprod",), options=options)
    layers = library.manifest["programs"]["dotprod"]["layers"]
    tuned = [layer for layer in layers if layer["tuned"]]
    assert [tuple(layer["nodes"]) for layer in tuned] == [layer.nodes for layer in found.layers]
    told = {n: k for layer in found.layers for n, k in found.schedules.items() if n in layer.nodes}
    for layer in tuned:
        for node, knobs in layer["schedule"].items():
            assert {
                k: v for k, v in told.get(node, {}).items() if k in knobs and k != "chunk"
            }.items() <= knobs.items()
    assert not any(layer["tuned"] for layer in layers if not layer["schedule"])


def test_without_records_for_the_compiler_nothing_changes():
    graph, core = network(), targets.get("cortex-a55")
    known = random_records(graph, "dotprod", core.name, 0)
    found = apply(graph, "dotprod", core, [known], "gcc")
    assert found.tuned == frozenset()
    plain = build_library(graph, ("dotprod",), options=Options(core.name))
    same = build_library(graph, ("dotprod",), options=Options(core.name, schedules=found.schedules))
    assert {n: c for n, c in plain.files.items() if n.endswith(".c")} == {
        n: c for n, c in same.files.items() if n.endswith(".c")
    }


def test_the_users_records_come_first():
    graph, core = network(), targets.get("cortex-a55")
    op = next(x.op for x in tasks.layers(graph, "dotprod", core.name) if x.op.operator == "vector")
    first = Records(core.name).merged([Record(op, "clang 1", {"quads": 1}, 5.0, 9.0, "cycles", "a")])
    second = Records(core.name).merged([Record(op, "clang 1", {"quads": 2}, 4.0, 9.0, "cycles", "b")])
    node = next(x.nodes[0] for x in tasks.layers(graph, "dotprod", core.name) if x.op == op)
    found = apply(graph, "dotprod", core, [first, second], "clang")
    assert found.schedules[node]["quads"] == 1


def test_bad_files_are_an_error_or_a_note(tmp_path):
    core = targets.get("cortex-a55")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(Mnv3cError, match="damaged records"):
        sources(core, "clang", [bad])
    found, notes = sources(core, "clang", [bad], with_shipped=False, fall_back=True)
    assert found == [] and len(notes) == 1
    assert notes[0].startswith("default schedules are used:") and "damaged records" in notes[0]


def test_records_of_another_compiler_are_refused_only_if_the_user_gave_them(tmp_path):
    core = targets.get("cortex-a55")
    file = tmp_path / "mine.json"
    records.save(file, random_records(network(), "dotprod", core.name, 1))
    assert sources(core, "clang", [file], with_shipped=False)[0]
    with pytest.raises(Mnv3cError, match="none for gcc"):
        sources(core, "gcc", [file], with_shipped=False)
    sources(core, "gcc", [])
