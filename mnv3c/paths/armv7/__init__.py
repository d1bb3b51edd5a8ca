"""The ``armv7`` path: 32-bit ARMv7-A with NEON (Cortex-A7, A8, A9, A15, and 64-bit cores in 32-bit mode).

Layouts, stages and most kernels are those of the ``neon`` path. What differs is what 16 instead of 32
vector registers ask for: the inner products (``templates/kernels/armv7/tile.c.j2``), tables, smaller tiles
of depthwise convolutions, and the few intrinsics that only 64-bit Arm has, which become small functions
over those of ARMv7.
"""

from __future__ import annotations

import re
from dataclasses import replace

from mnv3c.codegen.program import Kernel, Options, Program
from mnv3c.codegen.render import render
from mnv3c.ir.graph import Graph
from mnv3c.paths import neon
from mnv3c.paths.neon.dialect import Dialect
from mnv3c.paths.neon.tile import Depth, tile_name

name = "armv7"

# What the kernels use of 64-bit Arm's intrinsics; templates/kernels/armv7/prologue.c.j2 defines them.
_FROM_64_BIT = ("vaddw_high_s8", "vaddw_high_s16", "vcvtnq_s32_f32", "vqmovn_high_s32", "vuzp1q_s16")


def lower(graph: Graph, options: Options) -> Program:
    """Lower the fused integer graph; shapes without a vector kernel take the portable one and a note."""
    program = neon.lower(graph, options, DIALECT)
    words = {w for s in program.stages for k in s.kernels for w in re.findall(r"\w+", k.source)}
    missing = [n for n in _FROM_64_BIT if n in words]
    return replace(
        program,
        path=name,
        prologue=render("kernels/armv7/prologue.c.j2", missing=missing) + "\n" + program.prologue,
    )


def _tile(pixels: int, depth: Depth) -> Kernel:
    called = tile_name(pixels, depth)
    source = render(
        "kernels/armv7/tile.c.j2",
        name=called,
        pixels=pixels,
        half=depth.half,
        slices=None if depth.looped else depth.slices,
        depth="depth" if depth.looped else str(depth.bytes),
    )
    return Kernel(called, source)


def _look_up() -> Kernel:
    return Kernel("look_up_neon", render("kernels/armv7/look_up.c.j2"))


DIALECT = Dialect(_tile, _look_up, depthwise_pixels=4)
