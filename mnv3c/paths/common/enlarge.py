"""Stages that enlarge a map, alone or with an argmax behind, for every path of 64-bit Arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Region, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.interpolate import VECTOR, Plan, grouped, plan, row_lookups, tile_lookups
from mnv3c.paths.common.shares import MOST, for_shares, own, split

# Both lines of a strip together: half of the smallest first-level caches.
_LINES_BYTES = 16 * 1024


@dataclass(frozen=True)
class Source:
    """Where a stage reads and writes.

    Attributes:
        form: ``tiles`` (rows of channel-minor tiles of 4 pixels) or ``pixels`` (dense).
        read, write: names of regions.
        qualifier: of the kernels' functions.
        suffix: of their names.
    """

    form: str
    read: str
    write: str
    qualifier: str
    suffix: str


class _Maker:
    """Kernels of a plan."""

    def __init__(self, source: Source, p: Plan) -> None:
        self.source, self.p = source, p
        self.kernels: list[Kernel] = []

    def kernel(self, template: str, name: str, **values: object) -> str:
        """The name of a kernel that the stage calls."""
        full = f"{name}_{self.source.suffix}"
        source = render(
            f"kernels/arm64/{template}.c.j2",
            name=full,
            qualifier=self.source.qualifier,
            kind=self.p.kind,
            shift=self.p.shift,
            row_bits=self.p.rows.bits,
            column_bits=self.p.columns.bits,
            **values,
        )
        self.kernels.append(Kernel(full, source))
        return full


def resize_stage(node: q.QResize, x: Tensor, y: Tensor, source: Source, most: int = MOST) -> Stage:
    """The stage of a resize for which ``fits`` holds.

    Args:
        most: shares, each of which needs memory of its own.
    """
    p = plan(node, x, y.shape[:2])
    assert p is not None
    label = identifier(node.name)
    height, width, channels = x.shape
    quads, columns = -(-channels // 4), -(-width // 4)
    made = _Maker(source, p)
    values: dict[str, object] = {}
    if source.form == "tiles":
        lookups = tile_lookups(p, columns)
        assert lookups is not None
        units, unit, row_bytes = -(-y.shape[1] // 4), VECTOR * quads, columns * quads * VECTOR
        arrays = {"places": lookups.places, "patterns": lookups.patterns}
        stretch = made.kernel("stretch", f"stretch_{p.kind}")
        values["patterns"] = f"patterns_{label}"
    else:
        units, unit, row_bytes = y.shape[1], channels, width * channels * (x.bytes // x.elements)
        arrays = {"places": p.columns.pairs}
        stretch = made.kernel("stretch_pixels", f"stretch_pixels_{p.kind}{p.columns.bits}")
    strip = min(units, max(1, _LINES_BYTES // (2 * unit * p.lane_bytes)))
    line_lanes = strip * unit + VECTOR
    lines = Region(f"{label}_lines", 2 * line_lanes * p.lane_bytes)
    # Eight channels at once read behind the last pixel: of a copy.
    row = Region(f"{label}_row", row_bytes + 16)
    copied = source.form == "pixels" and channels % 8 != 0
    shares = split(y.shape[0], most)
    body = render(
        "kernels/arm64/resize.c.j2",
        kind=p.kind,
        form=source.form,
        lines=own(lines, shares.parts),
        row=own(row, shares.parts),
        copied=copied,
        units=units,
        unit=unit,
        strip=strip,
        begin=shares.begin,
        end=shares.end,
        rows=f"rows_{label}",
        places=f"places_{label}",
        height=height,
        width=width,
        channels=channels,
        quads=quads,
        columns=columns,
        line_lanes=line_lanes,
        row_bytes=row_bytes,
        out_row=units * unit,
        source=source.read,
        target=source.write,
        stretch=stretch,
        blend=made.kernel("blend", f"blend_{p.kind}{p.rows.bits}_{p.shift}"),
        **values,
    )
    return _stage(
        node,
        f"resize bilinear, {shape_text(x)} to {shape_text(y)}",
        source,
        body,
        for_shares((lines, row) if copied else (lines,), shares.parts),
        made.kernels,
        {"rows": p.rows.pairs, **arrays},
        shares.parts,
    )


def argmax_stage(node: q.FusedResizeArgMax, x: Tensor, y: Tensor, source: Source, most: int = MOST) -> Stage:
    """The stage of an enlargement of which only the greatest class is wanted, where ``fits`` holds."""
    p = plan(node.resize, x, y.shape[:2])
    assert p is not None
    lookups = row_lookups(p)
    assert lookups is not None
    label = identifier(node.name)
    height, width, channels = x.shape
    size = x.bytes // x.elements
    quads, tiled = -(-channels // 4), source.form == "tiles"
    made = _Maker(source, p)
    strip = _argmax_strip(y.shape[1], channels * p.lane_bytes)
    cuts = _cuts(p, strip, y.shape[1], width, tiled)
    planes = 4 * quads if tiled else channels
    columns = int(cuts[:, 5].max())
    pitch = -(-(columns + 2 * VECTOR // size) // VECTOR) * VECTOR
    plane_region = Region(f"{label}_planes", planes * pitch * size)
    line_lanes = channels * strip
    lines = Region(f"{label}_lines", 2 * line_lanes * p.lane_bytes)
    groups = Region(f"{label}_groups", 2 * (strip // VECTOR) + -(-columns // VECTOR) * VECTOR)
    shares = split(y.shape[0], most)
    places = lookups.places.copy()
    for first, count, column in cuts[:, [2, 3, 4]]:
        places[first : first + count, 0] -= column
    element = "int16_t" if size == 2 else "int8_t"
    split_rows = "planes_of_tiles" if tiled else "planes_of_pixels"
    body = render(
        "kernels/arm64/resize_argmax.c.j2",
        kind=p.kind,
        form=source.form,
        lines=own(lines, shares.parts),
        planes_at=own(plane_region, shares.parts),
        groups=own(groups, shares.parts),
        strip_groups=strip // VECTOR,
        spans=f"spans_{label}",
        strips=len(cuts),
        cut=f"strips_{label}",
        begin=shares.begin,
        end=shares.end,
        rows=f"rows_{label}",
        places=f"places_{label}",
        patterns=f"patterns_{label}",
        height=height,
        channels=channels,
        quads=quads,
        pitch=pitch,
        line_lanes=line_lanes,
        line_pitch=strip,
        row_bytes=-(-width // 4) * quads * VECTOR if tiled else width * channels * size,
        out_width=y.shape[1],
        source=source.read,
        target=source.write,
        planes=made.kernel(split_rows, split_rows if tiled else f"{split_rows}{8 * size}", element=element),
        stretch=made.kernel("stretch", f"stretch_{p.kind}"),
        winners=made.kernel("winners", f"winners{8 * size}", element=element),
        compete=made.kernel(
            "compete",
            f"compete_{p.kind}{p.rows.bits}_{p.shift}_{channels}x{strip}",
            classes=channels,
            pitch=strip,
        ),
    )
    return _stage(
        node,
        f"resize bilinear and argmax, {shape_text(x)} to {shape_text(y)}",
        source,
        body,
        for_shares((lines, plane_region, groups), shares.parts),
        made.kernels,
        {
            "rows": p.rows.pairs,
            "places": places,
            "patterns": lookups.patterns,
            "strips": cuts,
            "spans": _spans(p, cuts),
        },
        shares.parts,
    )


def _argmax_strip(width: int, column_bytes: int) -> int:
    """Columns of a strip, a multiple of 16, of as even a length as can be."""
    most = max(_LINES_BYTES // (2 * column_bytes) // VECTOR, 1)
    groups = -(-width // VECTOR)
    strips = -(-groups // most)
    return -(-groups // strips) * VECTOR


def _cuts(p: Plan, strip: int, width: int, in_width: int, tiled: bool) -> np.ndarray:
    """int16 ``[strips, 6]``, as ``resize_argmax.c.j2`` says; columns of the input from and to whole tiles."""
    rows = []
    for first in range(0, width, strip):
        count = min(strip, width - first)
        low = int(p.columns.below[first : first + count].min())
        high = int(p.columns.above[first : first + count].max()) + 1
        if tiled:
            low, high = low // 4 * 4, -(-high // 4) * 4
        rows.append([first, count, first // p.outputs, -(-count // p.outputs), low, high - low])
    return np.asarray(rows, np.int16)


def _spans(p: Plan, cuts: np.ndarray) -> np.ndarray:
    """int16 ``[groups of 16 outputs, 2]``: a group's first column of a strip's, and how many it reads."""
    below, above = (grouped(v, VECTOR) for v in (p.columns.below, p.columns.above))
    first = below.min(axis=1)
    spans = np.stack([first, above.max(axis=1) + 1 - first], axis=1).astype(np.int16)
    for output, count, column in cuts[:, [0, 1, 4]]:
        spans[output // VECTOR : -(-(output + count) // VECTOR), 0] -= column
    return spans


def _stage(
    node: q.QResize | q.FusedResizeArgMax,
    title: str,
    source: Source,
    body: str,
    scratch: tuple[Region, ...],
    kernels: list[Kernel],
    arrays: Mapping[str, np.ndarray],
    parts: int,
) -> Stage:
    label = identifier(node.name)
    return Stage(
        name=label,
        title=title,
        nodes=(node.name,),
        reads=(source.read,),
        writes=(source.write,),
        body=body,
        scratch=scratch,
        kernels=tuple(kernels),
        constants=tuple(Constant(f"{key}_{label}", data, "table") for key, data in arrays.items()),
        parts=parts,
    )
