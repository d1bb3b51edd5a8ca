"""Units of accumulators and the multipliers that follow from them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnv3c.ir import int_ops as q
from mnv3c.quant import Options, quantize
from mnv3c.quant.weights import shorten, snap_unit
from mnv3c.reference.arithmetic import quantize_multiplier

from .networks import block_network, inputs


def short(multiplier: np.ndarray) -> bool:
    """Whether all are whole numbers below 2**15 times one power of two."""
    whole = multiplier.astype(np.int64)
    common = int(np.bitwise_or.reduce(whole))
    trailing = (common & -common).bit_length() - 1
    return bool((whole >> trailing).max() < 1 << 15) and bool((whole > 0).all())


@given(
    st.lists(st.floats(2.0**-25, 2.0**4), min_size=1, max_size=20),
    st.floats(2.0**-12, 2.0**12).map(np.float32).map(float),
)
def test_snapped_units_give_short_multipliers(ratios: list[float], scale: float) -> None:
    unit = np.asarray(ratios) * scale
    snapped = snap_unit(unit, scale)
    multiplier, shift = quantize_multiplier(snapped / scale)
    assert short(multiplier)
    assert (np.ldexp(multiplier.astype(np.float64), shift - 31) * scale == snapped).all()
    # Coarser, never finer: weights of 127 stay so. By at most a unit in 15 bits of the greatest, or in 31.
    assert (snapped >= unit * (1 - 1e-15)).all()
    assert (
        snapped <= np.maximum(unit + unit.max() * 2.0**-14, unit.max() * 2.0**-9 * 1.001) + scale * 2.0**-31
    ).all()


def test_every_convolution_of_ours_has_short_multipliers() -> None:
    graph = block_network(3)
    for options in (Options(), Options(rounding="nearest", bias_correction=False)):
        quantized = quantize(graph, inputs(graph, 4, 0), options=options)
        convs = [n for n in quantized.nodes if isinstance(n, q.QConv)]
        assert len(convs) > 3
        assert all(short(n.requant.multiplier) for n in convs)


@given(st.lists(st.floats(-(2.0**30), 2.0**30), min_size=1, max_size=20), st.floats(0.5, 2.0**20))
def test_shortened_numbers_fit_16_bits_or_are_the_nearest(values: list[float], error: float) -> None:
    given = np.asarray(values)
    result = shorten(given, error)
    whole = result.astype(np.int64)
    common = int(np.bitwise_or.reduce(np.abs(whole)))
    trailing = (common & -common).bit_length() - 1 if common else 0
    if (np.abs(whole >> trailing) > 32767).any():
        assert (whole == np.rint(given)).all()
    else:
        assert (np.abs(whole - np.rint(given)) <= error).all()


def test_a_bias_far_larger_than_the_others_is_not_worth_their_precision() -> None:
    values = np.array([40_000_000.0, 5.0, 100.0])
    assert shorten(values, 100.0).tolist() == [40_000_000, 5, 100]
    assert shorten(values, 1000.0).tolist() == [39_999_488, 0, 0]
