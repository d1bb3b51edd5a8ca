"""Weights of 9 bits split in two, and work cut into shares."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.paths.neon.lift import split_weights
from mnv3c.paths.neon.shares import Shares, cut, efficiency


def test_split_weights_add_up_and_small_ones_stay() -> None:
    rng = np.random.default_rng(0)
    shift = np.array([0, 90, -100, 128, -128])[:, np.newaxis]
    weight = (rng.integers(-127, 128, (5, 40)) + shift).astype(np.int16)
    rest, constant = split_weights(weight) or pytest.fail("these channels span 8 bits")
    assert rest.dtype == np.int8 and constant.dtype == np.int16 and constant[0] == 0
    assert np.array_equal(rest.astype(np.int16) + constant[:, np.newaxis], weight)


@pytest.mark.parametrize("other, possible", [(0, True), (8, False), (9, True), (16, True)])
def test_least_weights_are_refused_in_pairs(other: int, possible: bool) -> None:
    """(-128)(-128) twice would not fit 16 bits; values 8 apart in a slice of 16 are added."""
    weight = np.zeros((1, 32), np.int16)
    weight[0, [0, other]] = -200
    weight[0, 31] = 55
    assert (split_weights(weight) is not None) == possible


def test_a_span_beyond_8_bits_is_refused() -> None:
    assert split_weights(np.array([[-200, 0, 0, 0, 0, 0, 0, 56]], np.int16)) is None


@pytest.mark.parametrize("units, parts", [(7, 3), (12, 4), (15, 4), (1, 1)])
def test_shares_cover_all_units_once(units: int, parts: int) -> None:
    shares = Shares(units, parts)
    assert sum(shares.sizes) == units and max(shares.sizes) - min(shares.sizes) <= 1
    edges = [eval(shares.edge("s").replace("/", "//"), {"s": s}) for s in range(parts + 1)]
    assert edges[0] == 0 and edges[-1] == units
    assert tuple(np.diff(edges)) == shares.sizes


def test_four_workers_are_kept_busy() -> None:
    assert efficiency((3, 3, 3, 3)) == 1.0
    assert efficiency((4, 1, 1, 1)) == 7 / 16
    for units in (12, 15, 23, 49, 60, 84, 120):
        assert efficiency(cut(units).sizes) > 0.9
