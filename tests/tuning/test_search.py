from __future__ import annotations

import math

import pytest

from mnv3c.tuning.search import EXHAUSTIVE, Search

SMALL = {"a": (1, 2, 3, 4), "b": ("x", "y", "z")}
LARGE = {"a": tuple(range(1, 9)), "b": tuple(range(1, 9)), "c": ("p", "q", "r"), "d": (1, 2, 4, 8)}
BEST = {"a": 6, "b": 3, "c": "r", "d": 8}


def additive(schedule):
    """Least for ``BEST``."""
    return (
        100.0
        + abs(schedule["a"] - 6)
        + 2 * abs(schedule["b"] - 3)
        + 5 * (schedule["c"] != "r")
        - schedule["d"]
    )


def run(search, cost, trials, batch=8):
    asked = []
    while search.tried < trials:
        some = search.ask(min(batch, trials - search.tried))
        if not some:
            break
        for schedule in some:
            search.tell(schedule, cost(schedule))
        asked += some
    return asked


def test_a_small_space_is_searched_as_a_whole_and_once():
    search = Search(SMALL, {"a": 2, "b": "x"}, 0)
    asked = run(search, lambda s: s["a"] + (s["b"] == "z") * -10.0, 1000, 5)
    assert asked[0] == {"a": 2, "b": "x"}
    assert len(asked) == len({str(s) for s in asked}) == 12
    assert search.best == ({"a": 1, "b": "z"}, -9.0)
    assert search.ask(1) == []


def test_the_sum_of_parts_is_solved_by_neighbours_and_their_combination():
    assert math.prod(map(len, LARGE.values())) > EXHAUSTIVE
    search = Search(LARGE, {"a": 1, "b": 1, "c": "p", "d": 1}, 0)
    asked = run(search, additive, 26)
    assert search.best[0] == BEST and len(asked) <= 26


def test_optuna_goes_on_where_knobs_depend_on_each_other():
    pytest.importorskip("optuna")

    def cost(s):
        return 10.0 * abs(s["a"] - s["b"]) - 3 * min(s["a"], s["b"])  # a change of either alone is worse

    search = Search(LARGE, {"a": 1, "b": 1, "c": "p", "d": 1}, 0)
    run(search, cost, 120)
    assert search.best[1] <= -12


@pytest.mark.parametrize("trials", [10, 80])
def test_same_seed_same_steps_and_no_schedule_twice(trials):
    pytest.importorskip("optuna")
    first = run(Search(LARGE, {"a": 1, "b": 1, "c": "p", "d": 1}, 7), additive, trials)
    second = run(Search(LARGE, {"a": 1, "b": 1, "c": "p", "d": 1}, 7), additive, trials)
    assert first == second and len({str(s) for s in first}) == len(first)


def test_hints_come_right_after_the_default_and_are_built_upon():
    search = Search(
        LARGE, {"a": 1, "b": 1, "c": "p", "d": 1}, 0, [{"a": 6, "c": "r", "speed": 9}, {"c": "no"}]
    )
    asked = run(search, additive, 12)
    assert asked[1] == {"a": 6, "b": 1, "c": "r", "d": 1}
    assert all(s["a"] == 6 or s["c"] == "r" for s in asked[2:])


def test_failed_schedules_never_win():
    search = Search(SMALL, {"a": 2, "b": "x"}, 0)
    run(search, lambda s: math.inf if s["b"] == "z" else float(s["a"]), 100)
    assert search.best == ({"a": 1, "b": "x"}, 1.0)
    assert all(s["b"] != "z" for s in search.ranked()) and len(search.ranked()) == 8


def test_a_default_outside_of_the_table_is_tried_too():
    search = Search({"a": (1, 2)}, {"a": 5, "not a knob": 1}, 0)
    assert [s["a"] for s in run(search, lambda s: -float(s["a"]), 10)] == [5, 1, 2]
    assert search.best == ({"a": 5}, -5.0)
