"""1x1 convolutions by SMMLA: 2 channels by 2 pixels over 8 input channels an instruction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.common.knobs import Knob, by_rule, tile_sizes
from mnv3c.paths.dotprod.epilogue import Epilogue
from mnv3c.paths.dotprod.outliers import header_steps
from mnv3c.paths.dotprod.pointwise import PairedKernel
from mnv3c.schedules import table_of


def matrix_kernel(
    in_quads: int,
    out_quads: int,
    columns: int,
    lanes: str,
    e: Epilogue,
    edge_pixels: int = 0,
    plain: Collection[str] = (),
    knob: Knob = by_rule,
) -> PairedKernel:
    """Like ``dotprod.pointwise.pointwise_kernel``, which see for the arguments.

    What has an even number of quads and is not ``plain`` is in matrix operands.
    """
    octets, half = divmod(in_quads, 2)
    octets_in = not half and "in" not in plain
    octets_out = lanes == "channel" and out_quads % 2 == 0 and "out" not in plain
    mixed = octets_out and e.kind == "residual" and "residual" in plain
    # The h-swish and its offsets are then one product and accumulation, which leaves the narrowing alone.
    together = e.kind == "hswish" and e.swish_channel and e.offset == "channel"
    rules = table_of("pointwise")
    pixels, channels = tile_sizes(knob("tile", rules.default_tile(out_quads, paired=octets_out)))
    quads = channels // 4
    unroll = knob("unroll", rules.default_unroll_i8mm(octets)) if octets else 0
    depth = octets // unroll if unroll else 1
    rest = octets - depth * unroll
    blocks = min(pixels // 4, columns)
    steps, tail = divmod(columns, blocks)
    if edge_pixels and tail == 0:
        steps, tail = steps - 1, blocks
    verb = "expand" if lanes == "pixel" else "project"
    tiles = "plainin_" * (not octets_in) + "plainout_" * (lanes == "channel" and not octets_out)
    form = f"{tiles}{'plainresidual_' * mixed}{blocks if steps else 0}_{tail}e{edge_pixels}x{quads}"
    inner = f"k{unroll}{'' if depth > 1 else 'once'}{f'r{rest}' if rest else ''}{'half' if half else ''}"
    name = f"{verb}_{form}_{inner}_{e.label}_i8mm"
    header = header_steps(quads, 8, e.extra)
    source = render(
        "kernels/dotprod/pointwise.c.j2",
        loads="",
        tile="kernels/i8mm/tile.j2",
        header=header,
        name=name,
        epilogue=e,
        r=replace(e, wide=True),
        narrowing=replace(e, kind="int8", offset="none") if together else e,
        lanes=lanes,
        octets_in=octets_in,
        octets_out=octets_out,
        mixed=mixed,
        blocks=blocks,
        tail=tail,
        has_main=steps > 0,
        quads=quads,
        unroll=unroll,
        depth=depth,
        rest=rest,
        half=half,
        turn_bytes=32 * unroll * quads,
        rest_bytes=32 * (rest + half + header + e.extra) * quads,
        edge_pixels=edge_pixels,
        edge_mask=(1 << 8 * edge_pixels) - 1 & 0x01010101,
    )
    quad_bytes = 32 * (octets + half + header + e.extra)
    return PairedKernel(Kernel(name, source), quads, unroll, depth, steps, quad_bytes, unit=8, extra=e.extra)


def octets_kernel(pairs: int) -> tuple[Kernel, int]:
    """The kernel that makes so many pairs of tiles into matrix operands, or back, and the turns it takes."""
    unroll = next(u for u in (4, 3, 2, 1) if pairs % u == 0)
    name = f"octets_{unroll}_i8mm"
    return Kernel(name, render("kernels/i8mm/octets.c.j2", unroll=unroll)), pairs // unroll
