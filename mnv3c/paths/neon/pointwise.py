"""1x1 convolution, fully connected, and any convolution once its windows are gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.neon.epilogue import Epilogue
from mnv3c.paths.neon.pack import BLOCK, pack_blocks
from mnv3c.paths.neon.tile import Depth, overread, tile_name, tile_values

# Weights of a chunk of output channels stay in a 32 KiB first-level cache beside inputs and outputs.
CHUNK_BYTES = 12 * 1024


def pixel_runs(pixels: int) -> dict[int, int]:
    """Cut a number of pixels into tiles of 4, and of 3 where 4 does not divide: size to count.

    Tiles of 1 and 2 load nearly as much as they compute; only very small maps need them.
    """
    threes = -pixels % 4
    if 3 * threes <= pixels:
        runs = {4: (pixels - 3 * threes) // 4, 3: threes}
    else:
        runs = {4: pixels // 4, pixels % 4: 1}
    return {size: count for size, count in runs.items() if count}


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A matrix of weights as a kernel and a constant; ``call`` writes the C that runs it."""

    kernels: tuple[Kernel, ...]
    constant: Constant
    name: str
    depth: int
    channels: int
    block_bytes: int
    looped: bool
    sizes: tuple[int, ...]
    residual: bool
    scale: str | None

    def call(
        self, x: str, x_step: int, y: str, y_step: int, pixels: int, residual: str = "", around: str = ""
    ) -> str:
        """C statements for ``pixels`` pixels.

        Args:
            x, y, residual: C expressions of typed pointers.
            around: a loop over rows, say, that ``x``, ``y`` and ``residual`` depend on.
        """
        blocks, rest = divmod(self.channels, BLOCK)
        pieces = [("0", str(blocks))]
        chunk = blocks
        if blocks * self.block_bytes > 2 * CHUNK_BYTES:
            chunk = max(1, CHUNK_BYTES // self.block_bytes)
            chunk = -(-blocks // -(-blocks // chunk))  # of equal size
            count = f"{blocks} - b < {chunk} ? {blocks} - b : {chunk}" if blocks % chunk else str(chunk)
            pieces = [("b", count)]
        lines = [self._call(x, x_step, y, y_step, pixels, residual, at, count) for at, count in pieces]
        if around:
            lines = [f"{around} {{", *(f"  {line}" for line in lines), "}"]
        if chunk < blocks:
            lines = [
                f"for (int32_t b = 0; b < {blocks}; b += {chunk}) {{",
                *(f"  {line}" for line in lines),
                "}",
            ]
        if rest:
            # The last block overlaps its neighbour.
            last = self._call(x, x_step, y, y_step, pixels, residual, str(blocks), "1", self.channels - BLOCK)
            lines += [f"{around} {{", f"  {last}", "}"] if around else [last]
        return "\n".join(lines)

    def _call(
        self,
        x: str,
        x_step: int,
        y: str,
        y_step: int,
        pixels: int,
        residual: str,
        block: str,
        blocks: str,
        channel: int | None = None,
    ) -> str:
        """One call for ``blocks`` blocks from ``block`` on, whose first output channel is ``channel``."""
        at = (f"8 * {block}" if block != "0" else "") if channel is None else str(channel)
        shift = f" + {at}" if at else ""
        w = self.constant.name + (f" + {block} * {self.block_bytes}" if block != "0" else "")
        arguments = [x, str(x_step), w, f"{y}{shift}", str(y_step)]
        arguments += [f"{residual}{shift}"] if self.residual else []
        runs = pixel_runs(pixels)
        arguments += [*(str(runs.get(size, 0)) for size in self.sizes), blocks]
        arguments += [self.scale] if self.scale is not None else []
        arguments += [str(self.depth)] if self.looped else []
        return f"{self.name}({', '.join(arguments)});"


def lower_pointwise(label: str, weight: np.ndarray, e: Epilogue, pixels: int) -> Pointwise:
    """Kernels for ``weight`` (int8 ``[out, in]``, out >= 8).

    Args:
        label: makes the constant's name unique.
        pixels: how many are computed in one call.
    """
    channels, inputs = weight.shape
    depth = Depth.of(inputs)
    sizes = sorted(pixel_runs(pixels), reverse=True)
    if depth.looped and sizes == [4]:
        sizes = [4, 3]  # another layer will need both: they share the code
    tiles = {p: tile_name(p, depth) for p in sizes}
    rests = "".join(str(p) for p in sizes)
    cuts = "_".join(dict.fromkeys(t.rsplit("_", 1)[1] for t in tiles.values()))
    name = f"pointwise_{rests}x{BLOCK}_neon_{cuts}_{e.label}"
    kernels = [
        Kernel(tile_name(p, depth), render("kernels/neon/tile.c.j2", **tile_values(p, depth))) for p in sizes
    ]
    source = render("kernels/neon/pointwise.c.j2", name=name, e=e, tiles=tiles, looped=depth.looped)
    packed = pack_blocks(weight, e.parameters)
    # What is read behind the last tile's weights: its parameters, and this where they are too few.
    behind = max(overread(size, depth) for size in sizes) - BLOCK * e.parameter_bytes
    data = np.concatenate([packed.reshape(-1), np.zeros(max(behind, 0), np.int8)])
    return Pointwise(
        kernels=(*kernels, Kernel(name, source)),
        constant=Constant(f"weights_{label}", data, "weight"),
        name=name,
        depth=depth.bytes,
        channels=channels,
        block_bytes=packed.shape[1],
        looped=depth.looped,
        sizes=tuple(sizes),
        residual=e.kind == "residual",
        scale=e.scale,
    )
