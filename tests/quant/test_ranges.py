"""Choice of ranges, scales and zero points, by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.quant import quantize
from mnv3c.quant.ranges import affine, clip_range, sample, symmetric
from mnv3c.quant.rounding import compensated_rounding
from tests.quant.networks import build, conv


def seen(values: np.ndarray):  # type: ignore[no-untyped-def]
    return sample("t", values.astype(np.float32), np.random.default_rng(0))


def test_minmax_is_the_extremes_and_holds_zero() -> None:
    low, high = clip_range(
        seen(np.asarray([[[[1.0, -2.0], [3.0, -5.0]]]])), per_channel=True, method="minmax"
    )
    np.testing.assert_allclose(low, [0, -5])
    np.testing.assert_allclose(high, [3, 0])


def test_affine_of_a_relu_range() -> None:
    a = affine(np.asarray([0.0]), np.asarray([25.5]))
    assert a.scale[0] == pytest.approx(0.1) and a.zero_point[0] == -128


def test_zero_is_always_an_integer() -> None:
    rng = np.random.default_rng(1)
    low, high = -rng.uniform(0, 5, 100), rng.uniform(0.01, 5, 100)
    a = affine(low, high)
    np.testing.assert_array_equal(a.zero_point, np.rint(a.zero_point))
    assert (a.zero_point >= -128).all() and (a.zero_point <= 127).all()
    ends = (np.asarray([[-128.0], [127.0]]) - a.zero_point) * a.scale
    assert (ends[0] <= low + a.scale).all() and (ends[1] >= high - a.scale).all()


def test_common_zero_point_reaches_both_ends() -> None:
    low, high = np.asarray([-0.4, 0.0, -0.1]), np.asarray([8.0, 3.0, 0.2])
    a = affine(low, high, common_zero=True)
    assert a.zero_point.shape == (1,)
    ends = (np.asarray([[-128.0], [127.0]]) - a.zero_point) * a.scale
    assert (ends[0] <= low + 1e-6).all() and (ends[1] >= high - 1e-6).all()


def test_mse_cuts_an_outlier_off_and_is_near_the_best() -> None:
    rng = np.random.default_rng(2)
    values = rng.exponential(1, (1, 300, 300, 1))
    s = seen(values)
    low, high = clip_range(s, per_channel=False, method="mse")
    rows = s.all_rows

    def error(top: float) -> float:
        step = top / 255
        return float(np.square(np.clip(np.rint(rows / step), 0, 255) * step - rows).mean())

    best = min(error(t) for t in np.geomspace(2, 20, 200))
    assert low[0] == 0 and high[0] < 0.95 * s.high.max()
    assert error(float(high[0])) < 1.1 * best


def test_kl_keeps_what_is_even_and_cuts_what_is_alone() -> None:
    rng = np.random.default_rng(5)
    even = rng.uniform(-1, 3, (1, 200, 200, 2))
    low, high = clip_range(seen(even), per_channel=False, method="kl")
    assert low[0] < -0.97 and high[0] > 2.9
    tailed = rng.normal(0, 1, (1, 200, 200, 2))
    tailed[0, 0, :3] = [[40.0, -40.0], [39.0, -38.0], [40.0, -37.0]]
    low, high = clip_range(seen(tailed), per_channel=False, method="kl")
    assert 3.5 < high[0] < 20 and low[0] == pytest.approx(-high[0])
    # Twice the values, twice the range.
    double = clip_range(seen(2 * tailed), per_channel=False, method="kl")
    assert double[1][0] == pytest.approx(2 * high[0])
    assert np.array_equal(
        clip_range(seen(even), per_channel=True, method="kl")[1], seen(even).high.max(axis=0)
    )
    assert (clip_range(seen(even * 0), per_channel=False, method="kl")[1] > 0).all()


def test_dead_channel_has_a_usable_scale() -> None:
    values = np.zeros((1, 4, 4, 3))
    values[..., 1] = np.arange(16).reshape(4, 4)
    low, high = clip_range(seen(values), per_channel=True, method="mse")
    assert (high - low > 0).all()
    assert (clip_range(seen(values * 0), per_channel=True, method="mse")[1] > 0).all()


def test_symmetric() -> None:
    assert symmetric(12.7).scale[0] == pytest.approx(0.1)
    assert symmetric(0.0).scale[0] > 0


@pytest.mark.parametrize("groups,taps", [(1, 40), (6, 9)])
def test_compensated_rounding_beats_nearest(groups: int, taps: int) -> None:
    rng = np.random.default_rng(3)
    mix = rng.normal(0, 1, (groups, taps, taps))
    x = rng.normal(0, 1, (groups, 500, taps)) @ mix
    moment = x.transpose(0, 2, 1) @ x / 500 + 1e-3 * np.eye(taps)
    weight = rng.uniform(-5, 5, (groups, 8, taps))
    rounded = compensated_rounding(weight, moment)

    def error(w: np.ndarray) -> float:
        return float(np.square(x @ (w - weight).transpose(0, 2, 1)).mean())

    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert error(rounded) < 0.6 * error(np.rint(weight))


def test_compensated_rounding_of_independent_inputs_is_nearest() -> None:
    weight = np.random.default_rng(4).uniform(-200, 200, (2, 5, 7))
    rounded = compensated_rounding(weight, np.tile(np.eye(7), (2, 1, 1)))
    np.testing.assert_array_equal(rounded, np.clip(np.rint(weight), -127, 127))


def test_clipping_is_chosen_by_name() -> None:
    graph = build((32, 32, 3), [conv(np.random.default_rng(0), "a", "x", 3, 4)])
    rng = np.random.default_rng(1)
    batch = [rng.standard_t(3, (32, 32, 3)).astype(np.float32) for _ in range(8)]
    scales = {}
    for kind in ("mse", "kl", "minmax"):
        integer = quantize(graph, batch, clipping=kind, output_dtype="int8")
        assert integer.meta["quantization"]["method"]["ranges"] == kind
        scales[kind] = integer.tensor("a").quant.scale[0]
    assert max(scales["mse"], scales["kl"]) < 0.95 * scales["minmax"]
    assert scales["mse"] != scales["kl"]
    with pytest.raises(Mnv3cError, match="clipping sharp"):
        quantize(graph, batch, clipping="sharp")
