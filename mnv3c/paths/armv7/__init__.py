"""The ``armv7`` path: 32-bit ARMv7-A with NEON (Cortex-A7, A8, A9, A15, and 64-bit cores in 32-bit mode).

Layouts, stages and most kernels are those of the ``neon`` path. What differs is what 16 instead of 32
vector registers ask for: the inner products (``templates/kernels/armv7/tile.c.j2``), tables, and the few
intrinsics that only 64-bit Arm has, which become small functions over those of ARMv7.
"""

from __future__ import annotations

import re
from dataclasses import replace

from mnv3c.codegen.program import Kernel, Options, Program, Stage
from mnv3c.codegen.render import render
from mnv3c.ir.graph import Graph
from mnv3c.paths import neon
from mnv3c.paths.neon.tile import HALF_BYTES, STEP_BYTES

name = "armv7"

# Depth.label: half slice, slices, and whether the rest of the depth is an argument.
_TILE = re.compile(r"tile_(\d)x4_neon_(h?)(\d+)(n?)")
# What the kernels use of 64-bit Arm's intrinsics; templates/kernels/armv7/prologue.c.j2 defines them.
_FROM_64_BIT = ("vaddw_high_s8", "vaddw_high_s16", "vcvtnq_s32_f32", "vqmovn_high_s32", "vuzp1q_s16")


def lower(graph: Graph, options: Options) -> Program:
    """Lower the fused integer graph; shapes without a vector kernel take the portable one and a note."""
    program = neon.lower(graph, options)
    stages = tuple(_stage(s) for s in program.stages)
    words = {w for s in stages for k in s.kernels for w in re.findall(r"\w+", k.source)}
    missing = [n for n in _FROM_64_BIT if n in words]
    return replace(
        program,
        path=name,
        stages=stages,
        prologue=render("kernels/armv7/prologue.c.j2", missing=missing) + "\n" + program.prologue,
    )


def _stage(stage: Stage) -> Stage:
    return replace(stage, kernels=tuple(_kernel(k) for k in stage.kernels))


def _kernel(kernel: Kernel) -> Kernel:
    """The kernel of that name for 32 bits, where the neon path's own is not it."""
    if kernel.name == "look_up_neon":
        return Kernel(kernel.name, render("kernels/armv7/look_up.c.j2"))
    match = _TILE.fullmatch(kernel.name)
    if match is None:
        return kernel
    pixels, half, lead, looped = match.groups()
    first = HALF_BYTES * bool(half)
    source = render(
        "kernels/armv7/tile.c.j2",
        name=kernel.name,
        pixels=int(pixels),
        half=bool(half),
        slices=None if looped else int(lead),
        depth="depth" if looped else str(first + STEP_BYTES * int(lead)),
    )
    return Kernel(kernel.name, source)
