"""1x1 convolution, fully connected, and any convolution once its windows are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.neon.epilogue import Epilogue
from mnv3c.paths.neon.pack import pack_tiles
from mnv3c.paths.neon.tile import CHANNELS, Depth, tile_name, tile_values

PIXELS = 4
# Weights of a chunk of output channels stay in a 32 KiB first-level cache beside inputs and outputs.
CHUNK_BYTES = 12 * 1024


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A matrix of weights as a kernel and a constant; ``call`` writes the C that runs it."""

    kernels: tuple[Kernel, ...]
    constant: Constant
    name: str
    depth: int
    channels: int
    tile_bytes: int
    loops: int
    residual: bool

    def call(self, x: str, x_step: int, y: str, y_step: int, pixels: str, residual: str = "") -> str:
        """C statements for ``pixels`` (an expression) pixels; x, y, residual are typed pointers."""
        tiles, rest = divmod(self.channels, CHANNELS)
        w = self.constant.name
        if tiles * self.tile_bytes <= 2 * CHUNK_BYTES:
            lines = [self._call(x, x_step, w, y, y_step, pixels, str(tiles), residual)]
        else:
            chunk = max(1, CHUNK_BYTES // self.tile_bytes)
            chunk = -(-tiles // -(-tiles // chunk))  # of equal size
            count = f"{tiles} - t < {chunk} ? {tiles} - t : {chunk}" if tiles % chunk else str(chunk)
            inner = self._call(
                x,
                x_step,
                f"{w} + t * {self.tile_bytes}",
                f"{y} + 4 * t",
                y_step,
                pixels,
                count,
                f"{residual} + 4 * t" if residual else "",
            )
            lines = [f"for (int32_t t = 0; t < {tiles}; t += {chunk}) {{", f"  {inner}", "}"]
        if rest:
            at = self.channels - CHANNELS
            lines.append(
                self._call(
                    x,
                    x_step,
                    f"{w} + {tiles * self.tile_bytes}",
                    f"{y} + {at}",
                    y_step,
                    pixels,
                    "1",
                    f"{residual} + {at}" if residual else "",
                )
            )
        return "\n".join(lines)

    def _call(
        self, x: str, x_step: int, w: str, y: str, y_step: int, pixels: str, tiles: str, residual: str
    ) -> str:
        arguments = [x, str(x_step), w, y, str(y_step)]
        arguments += [residual] if self.residual else []
        arguments += [pixels, tiles]
        arguments += [str(self.loops)] if self.loops else []
        return f"{self.name}({', '.join(arguments)});"


def lower_pointwise(label: str, weight: np.ndarray, e: Epilogue, runs: Sequence[int]) -> Pointwise:
    """Kernels for ``weight`` (int8 ``[out, in]``, out >= 4).

    Args:
        label: makes the constant's name unique.
        runs: the numbers of pixels that will be asked for in one call.
    """
    channels, inputs = weight.shape
    depth = Depth.of(inputs)
    sizes = sorted({r % PIXELS for r in runs} - {0}) + ([PIXELS] if max(runs) >= PIXELS else [])
    tiles = {p: tile_name(p, depth) for p in sizes}
    rests = "".join(str(p) for p in sizes)
    name = f"pointwise_{rests}x{CHANNELS}_neon_{depth.label}_{e.label}"
    kernels = [
        Kernel(tile_name(p, depth), render("kernels/neon/tile.c.j2", **tile_values(p, depth))) for p in sizes
    ]
    source = render("kernels/neon/pointwise.c.j2", name=name, e=e, tiles=tiles, loop=depth.pairs > 0)
    packed = pack_tiles(weight, e.parameters)
    return Pointwise(
        kernels=(*kernels, Kernel(name, source)),
        constant=Constant(f"weights_{label}", packed, "weight"),
        name=name,
        depth=inputs,
        channels=channels,
        tile_bytes=packed.shape[1],
        loops=depth.pairs,
        residual=e.kind == "residual",
    )
