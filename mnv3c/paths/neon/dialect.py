"""What differs between 64-bit Arm and ARMv7, which has half the vector registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.neon.tile import Depth, tile_name, tile_values


@dataclass(frozen=True)
class Dialect:
    """Kernels of the ``neon`` path that an instruction set has its own form of.

    Attributes:
        tile: the inner product of that many pixels with 4 output channels.
        look_up: ``look_up_neon``.
        depthwise_pixels: most pixels of a depthwise convolution's tile. Each keeps a 16-bit and two 32-bit
            sums in registers; that leaves room for the inputs and a row of weights.
        arm64: the kernels of ``templates/kernels/arm64`` can be used.
    """

    tile: Callable[[int, Depth], Kernel]
    look_up: Callable[[], Kernel]
    depthwise_pixels: int
    arm64: bool = False


def _tile(pixels: int, depth: Depth) -> Kernel:
    source = render("kernels/neon/tile.c.j2", **tile_values(pixels, depth))
    return Kernel(tile_name(pixels, depth), source)


def _look_up() -> Kernel:
    return Kernel("look_up_neon", render("kernels/neon/look_up.c.j2"))


ARM64 = Dialect(_tile, _look_up, depthwise_pixels=7, arm64=True)
