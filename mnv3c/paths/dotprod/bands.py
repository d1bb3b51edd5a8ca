"""How high the window of a depthwise convolution is, and the bands over which it moves."""

from __future__ import annotations

from dataclasses import dataclass

from mnv3c.paths.common.knobs import Knob, by_rule
from mnv3c.paths.dotprod.layout import TILE
from mnv3c.paths.dotprod.windows import WindowPlan
from mnv3c.schedules import table_of


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


def window_pitch(plan: WindowPlan, columns_in: int, columns_out: int) -> int:
    """Tiles of a row of the window, margins included."""
    return max((columns_out - 1) * plan.step[1] + plan.span[1], columns_in - plan.origin[1])


def held_bytes(
    plan: WindowPlan, columns_in: int, columns_out: int, quads_held: int, middle: bool
) -> tuple[int, int]:
    """Bytes of the window (and of the depthwise result, for ``middle``) for a row of the result, and for each
    row more."""
    pitch = window_pitch(plan, columns_in, columns_out)
    result = columns_out if middle else 0
    row = quads_held * TILE
    return (reach(plan) * pitch + result) * row, (plan.step[0] * pitch + result) * row


def plan_bands(
    plan: WindowPlan,
    columns_in: int,
    result: tuple[int, int],
    quads_held: int,
    middle: bool,
    knob: Knob = by_rule,
    most: int | None = None,
    small: bool = False,
) -> Bands:
    """The bands that the knob ``band_rows`` says.

    Args:
        result: rows and columns of the result's blocks.
        most: rows that are wanted at once, if not as many as possible: then there is no knob.
        small: little memory rather than few instructions.
    """
    rows_out, columns_out = result
    rules = table_of("block")
    held = held_bytes(plan, columns_in, columns_out, quads_held, middle)
    highest = rules.highest_band(rows_out, *held, rules.window_room(small))
    if most is not None:
        band = min(highest, most)
    else:
        band = min(knob("band_rows", rules.default_band_rows(rows_out, highest)), rows_out)
    pitch = window_pitch(plan, columns_in, columns_out)
    return Bands(
        rows=(band - 1) * plan.step[0] + reach(plan),
        pitch=pitch,
        left=-plan.origin[1],
        right=pitch + plan.origin[1] - columns_in,
        band_rows=band,
        bands=-(-rows_out // band),
        carry=max(plan.span[0] - plan.step[0], 0),
    )
