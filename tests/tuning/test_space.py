from __future__ import annotations

import pytest

from mnv3c import schedules, targets
from mnv3c.errors import Mnv3cError
from mnv3c.tuning import report, space, tasks
from tests.tuning.networks import network

CASES = (
    ("dotprod", "cortex-a55"),
    ("dotprod", "cortex-a76"),
    ("i8mm", "cortex-a510"),
    ("i8mm", "cortex-a710"),
)


@pytest.mark.parametrize(("path", "core"), CASES)
def test_every_operator_has_its_table(path, core):
    found = {layer.op.operator for layer in tasks.layers(network(), path, core)}
    assert found == {"convolution", "block", "pointwise", "vector", "gate"}
    assert all(schedules.has_table(name) for name in found)


@pytest.mark.parametrize(("path", "core"), CASES)
def test_what_the_paths_rules_choose_is_legal(path, core):
    graph, target = network(), targets.get(core)
    for layer in tasks.variants(graph, path, core):
        table = space.legal(layer.op, target)
        _, effective = tasks.task(graph, layer, core).candidate({})
        assert {k: v for k, v in effective.items() if k in table and v not in table[k]} == {}


@pytest.mark.parametrize(("path", "core"), CASES)
def test_candidates_are_legal_and_few_enough_to_list(path, core):
    target = targets.get(core)
    for layer in tasks.layers(network(), path, core):
        legal, worth = space.legal(layer.op, target), space.candidates(layer.op, target)
        # Costs are those of one worker: no search finds how many a layer should be cut for.
        assert set(worth) == {knob for knob in legal if not knob.endswith("workers")}
        for knob, values in worth.items():
            assert values and set(values) <= set(legal[knob])
            assert len(values) == len(set(values)) <= 16


def op_of(operator: str, path: str = "dotprod") -> schedules.Op:
    return next(x.op for x in tasks.layers(network(), path, "cortex-a55") if x.op.operator == operator)


@pytest.mark.parametrize(
    ("operator", "schedule", "words"),
    [
        ("pointwise", {"tile": "8x20"}, "tile cannot be '8x20'"),  # 20 does not divide the channels
        ("pointwise", {"tile": "24x24"}, "tile cannot be"),  # more sums than registers
        ("pointwise", {"speed": 3}, "no knob 'speed'"),
        ("pointwise", {"unroll": 7}, "unroll cannot be 7"),
        ("pointwise", {"unroll": "2"}, "unroll cannot be '2'"),
        ("pointwise", {"unroll": True}, "unroll cannot be True"),
        ("block", {"band_rows": 0}, "band_rows cannot be 0"),
        ("block", {"blocks": 5}, "blocks cannot be 5"),
        ("vector", {"quads": 4}, "quads cannot be 4"),
        ("vector", {"pairs": "both"}, "pairs cannot be 'both'"),
        ("gate", {"unroll": 3}, "unroll cannot be 3"),
    ],
)
def test_illegal_schedules_are_refused_in_one_line(operator, schedule, words):
    with pytest.raises(Mnv3cError, match=words) as caught:
        space.check(schedule, op_of(operator), targets.get("cortex-a55"), "here")
    assert caught.value.place == "here" and "\n" not in caught.value.message


def test_divisors_and_spread():
    assert schedules.divisors(12, 6) == (1, 2, 3, 4, 6)
    assert schedules.spread(5) == (1, 2, 3, 4, 5)
    some = schedules.spread(100, 6)
    assert some[0] == 1 and some[-1] == 100 and list(some) == sorted(set(some))


def test_every_is_the_product():
    table = {"a": (1, 2), "b": ("x", "y", "z")}
    assert space.size(table) == 6
    assert space.every(table)[0] == {"a": 1, "b": "x"} and len({str(s) for s in space.every(table)}) == 6


@pytest.mark.parametrize(("path", "core"), CASES)
def test_the_space_is_listed_with_what_is_used_without_a_search(path, core):
    rows = report.knob_rows(network(), path, targets.get(core))
    assert {r.op.operator for r in rows} == {"convolution", "block", "pointwise", "vector", "gate"}
    assert all(r.default in r.legal and set(r.candidates) <= set(r.legal) for r in rows)
    assert len({(r.op, r.knob) for r in rows}) == len(rows)


def test_values_for_people():
    assert report.values_text((1, 2, 3, 4)) == "1 to 4"
    assert report.values_text((1, 2, 4)) == "1, 2, 4"
    assert report.values_text(("joined", "single")) == "joined, single"
