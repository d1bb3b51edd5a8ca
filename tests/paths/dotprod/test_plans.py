"""Shares, chunks and bands: everything is computed once, by someone."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mnv3c.paths.common.shares import MOST, Split, slice_bytes, split
from mnv3c.paths.dotprod.bands import plan_bands
from mnv3c.paths.dotprod.chunks import Chunks, Walk, chunks_of
from mnv3c.paths.dotprod.windows import plan_window
from mnv3c.schedules import table_of


def _value(expression: str, begin: int) -> int:
    """An integer expression of C, whose division of positive numbers is Python's ``//``."""
    return int(eval(expression.replace("/", "//"), {"share_begin": begin, "share_end": begin + 1}))


@given(st.integers(1, 200), st.integers(1, 8))
def test_runs_are_neighbours_and_even(units: int, most: int) -> None:
    shares = split(units, most)
    runs = [(_value(shares.begin, i), _value(shares.end, i)) for i in range(shares.parts)]
    assert runs[0][0] == 0 and runs[-1][1] == units
    assert all(a[1] == b[0] for a, b in itertools.pairwise(runs))
    lengths = [end - begin for begin, end in runs]
    assert min(lengths) >= 1 and max(lengths) == shares.longest <= min(lengths) + 1


def test_longer_runs_come_first() -> None:
    shares = Split(6, 4)
    assert [_value(shares.end, i) - _value(shares.begin, i) for i in range(4)] == [2, 1, 2, 1]


def test_slices_are_whole_cache_lines() -> None:
    assert [slice_bytes(n) for n in (1, 64, 65)] == [64, 64, 128]


def _covered(chunks: Chunks, units: int) -> None:
    assert chunks.count * chunks.size + chunks.rest == units
    assert 1 <= chunks.parts <= MOST
    assert 1 / chunks.parts <= chunks.longest + 1e-9 and chunks.longest <= 1


@given(
    st.integers(1, 900),
    st.integers(1, 3),
    st.integers(1, 400),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(1, 60),
)
def test_chunks_cover_the_map(units: int, blocks: int, quads: int, multiple: int, groups: int) -> None:
    walk = Walk(units, blocks, 16 * quads, 0)
    chunks = table_of("pointwise").default_chunks(walk, multiple, groups, 32 * quads)
    _covered(chunks, units)
    if chunks.passes > 1:
        assert chunks.size % multiple == 0
    # Neither a chunk nor the rest is larger than the cache allows, or than the least there can be.
    largest = max(chunks.size, chunks.rest)
    assert largest <= multiple or largest * blocks * 16 * quads <= 26 * 1024


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 30))
def test_chunks_of_any_size(units: int, size: int, groups: int) -> None:
    _covered(chunks_of(units, min(size, units), groups), units)


@given(
    st.integers(3, 60), st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.integers(1, 40), st.booleans()
)
def test_bands_cover_the_result(rows: int, kernel: int, stride: int, quads: int, small: bool) -> None:
    half = kernel // 2
    plan = plan_window((kernel, kernel), (stride, stride), (1, 1), (half, half), (1, 4), (1, 4))
    columns = -(-rows * stride // 4)
    bands = plan_bands(plan, columns, (rows, -(-rows // 4)), quads, True, small=small)
    assert (bands.bands - 1) * bands.band_rows < rows <= bands.bands * bands.band_rows
    # A band's window is what the band before leaves of it, and as many rows as it moves on.
    assert bands.rows == bands.carry + bands.band_rows * plan.step[0]
    assert bands.left >= 0 and bands.right >= 0
    bounded = plan_bands(plan, columns, (rows, -(-rows // 4)), quads, True, most=2)
    assert bounded.band_rows <= 2
