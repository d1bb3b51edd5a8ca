"""Scheduling of a layer's shares, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3c.bench.balance import balance, makespan


def test_the_next_share_goes_to_who_is_free_first():
    # 5 | 3, then 3 joins 3, then 4 joins 5: 9.
    assert makespan([5, 3, 3, 4], 2) == 9
    assert makespan([5, 3, 3, 4], 1) == 15
    assert makespan([5, 3, 3, 4], 4) == 5


def test_a_layer_waits_for_all_workers():
    found = balance([[10, 10], [8]], 2)
    assert (found.critical, found.total) == (18, 28)
    assert found.share == pytest.approx(18 / 28)
    assert found.efficiency == pytest.approx(28 / 36)
    assert found.layers == (10, 8)


def test_what_shares_compute_twice_is_no_speed_up():
    found = balance([[6, 6], [8]], 2, [10, 8])
    assert (found.critical, found.total, found.undivided) == (14, 20, 18)
    assert found.share == pytest.approx(14 / 20)
    assert found.efficiency == pytest.approx(18 / 28)
    assert balance([[6, 6], [8]], 1, [10, 8]).critical == 18


def test_nothing_to_do():
    assert balance([], 4).share == 1.0


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 6))
def test_bounds(parts, workers):
    found = makespan(parts, workers)
    best = max(max(parts), sum(parts) / workers)
    assert best <= found <= sum(parts)
    # Graham's bound for list scheduling.
    assert found <= sum(parts) / workers + (1 - 1 / workers) * max(parts) + 1e-9
