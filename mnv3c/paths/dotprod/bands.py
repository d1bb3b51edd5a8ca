"""How high the window of a depthwise convolution is, and the bands over which it moves."""

from __future__ import annotations

from dataclasses import dataclass

from mnv3c.paths.common.knobs import Knob, by_rule
from mnv3c.paths.dotprod.layout import TILE
from mnv3c.paths.dotprod.windows import WindowPlan

# Share of the L1 for window and depthwise result, beside input, weights and result. Higher bands would
# carry fewer rows, but fill more lines.
_SHARE = 2
# The same where memory is worth more than the instructions that carry rows.
_SMALL_BYTES = 6 * 1024


@dataclass(frozen=True)
class Bands:
    """The window and the bands over which it moves.

    Attributes:
        rows, pitch: tiles; a row holds the margins too.
        left: tiles of margin before the image.
        right: tiles of margin behind it.
        band_rows: output block rows a band.
        bands: their number.
        carry: window rows that the next band needs again.
    """

    rows: int
    pitch: int
    left: int
    right: int
    band_rows: int
    bands: int
    carry: int

    @property
    def plane(self) -> int:
        """Bytes of a channel quad."""
        return self.rows * self.pitch * TILE


def reach(plan: WindowPlan) -> int:
    """Rows of the window for one row of the result."""
    return max(plan.span[0], plan.step[0])


def plan_bands(
    plan: WindowPlan,
    columns_in: int,
    result: tuple[int, int],
    quads_held: int,
    middle: bool,
    knob: Knob = by_rule,
    most: int | None = None,
    small: bool = False,
    l1_bytes: int = 32 * 1024,
) -> Bands:
    """The highest bands whose window (and depthwise result, for ``middle``) stay in L1.

    Args:
        result: rows and columns of the result's blocks.
        most: rows that are wanted at once, if not as many as possible.
        small: little memory rather than few instructions.
        l1_bytes: the core's L1 data cache.
    """
    rows_out, columns_out = result
    pitch = max((columns_out - 1) * plan.step[1] + plan.span[1], columns_in - plan.origin[1])

    def rows_of(band: int) -> int:
        return (band - 1) * plan.step[0] + reach(plan)

    def bytes_of(band: int) -> int:
        held = rows_of(band) * pitch + (band * columns_out if middle else 0)
        return held * quads_held * TILE

    limit = _SMALL_BYTES if small else l1_bytes // _SHARE
    highest = max((b for b in range(1, rows_out + 1) if bytes_of(b) <= limit), default=1)
    if most is not None:
        band = min(highest, most)
    else:
        bands = -(-rows_out // highest)
        band = min(knob("band_rows", -(-rows_out // bands)), rows_out)
    return Bands(
        rows=rows_of(band),
        pitch=pitch,
        left=-plan.origin[1],
        right=pitch + plan.origin[1] - columns_in,
        band_rows=band,
        bands=-(-rows_out // band),
        carry=max(plan.span[0] - plan.step[0], 0),
    )
