"""The integer primitives against exact rational arithmetic and hand-computed cases."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3c.reference.arithmetic import (
    quantize_multiplier,
    rdmulh16,
    rdmulh32,
    rounding_shift_right,
    sat8,
    sat16,
)

INT16 = st.integers(-(2**15), 2**15 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@given(INT32, st.integers(0, 2**31 - 1))
def test_rdmulh32_rounds_the_exact_product_half_up(a: int, b: int) -> None:
    assert int(rdmulh32(np.int64(a), np.int64(b))) == half_up(Fraction(a * b, 2**31))


@given(INT16, INT16)
def test_rdmulh16_rounds_half_up_and_saturates(a: int, b: int) -> None:
    assert int(rdmulh16(np.int64(a), np.int64(b))) == min(half_up(Fraction(a * b, 2**15)), 32767)


@given(INT16, st.integers(1, 7))
def test_rounding_shift(x: int, n: int) -> None:
    assert int(rounding_shift_right(np.int64(x), n)) == half_up(Fraction(x, 2**n))


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [(-32768, -32768, 32767), (-32768, 32767, -32767), (16384, 1, 1), (-16384, 1, 0), (-16385, 1, -1)],
)
def test_rdmulh16_by_hand(a: int, b: int, want: int) -> None:
    assert int(rdmulh16(np.int64(a), np.int64(b))) == want


def test_saturation() -> None:
    x = np.array([-40000, -32768, -129, -128, 0, 127, 128, 32767, 40000])
    assert sat8(x).tolist() == [-128, -128, -128, -128, 0, 127, 127, 127, 127]
    assert sat16(x).tolist() == [-32768, -32768, -129, -128, 0, 127, 128, 32767, 32767]


@given(st.lists(st.floats(1e-9, 60.0), min_size=1, max_size=8))
def test_multipliers_reproduce_their_scales(scales: list[float]) -> None:
    multiplier, shift = quantize_multiplier(np.array(scales))
    assert multiplier.dtype == np.int32 and (multiplier >= 0).all()
    np.testing.assert_allclose(
        np.ldexp(multiplier.astype(float), shift - 31), scales, atol=2.0 ** (shift - 32)
    )
    # The shift is no larger than it has to be.
    assert shift == 0 or max(scales) >= 2.0 ** (shift - 1) * (1 - 2**-30)
