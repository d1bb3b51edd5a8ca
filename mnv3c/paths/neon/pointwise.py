"""1x1 convolution, fully connected, and any convolution once its windows are gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.neon.epilogue import Epilogue
from mnv3c.paths.neon.pack import BLOCK, pack_blocks
from mnv3c.paths.neon.tile import Depth, overread, tile_name


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
    """A matrix of weights as a kernel and a constant."""

    kernels: tuple[Kernel, ...]
    constant: Constant
    name: str
    depth: int
    channels: int
    block_bytes: int
    looped: bool
    sizes: tuple[int, ...]
    residual: bool
    lifted: bool
    arguments: list[str]

    @property
    def blocks(self) -> int:
        """Whole blocks of 8 output channels."""
        return self.channels // BLOCK

    def row(
        self, x: str, x_step: int, y: str, y_step: int, pixels: int, residual: str = "", sums: str = ""
    ) -> list[str]:
        """C statements for a row of ``pixels`` pixels; ``x``, ``y``, ``residual`` are typed pointers in C."""
        runs = pixel_runs(pixels)
        blocks = str(self.blocks)
        line = self.run(x, x_step, y, str(y_step), runs, residual, blocks=blocks, sums=sums)
        return [line, *self.rest(x, x_step, y, str(y_step), runs, residual, sums=sums)]

    def rest(
        self,
        x: str,
        x_step: int,
        y: str,
        y_step: str,
        runs: Mapping[int, int | str],
        residual: str = "",
        blocks: str = "1",
        sums: str = "",
    ) -> list[str]:
        """The call for the channels behind the last whole block, if any; it overlaps that one."""
        if self.channels % BLOCK == 0:
            return []
        shift = f" + {self.channels - BLOCK}"
        residual = f"{residual}{shift}" if self.residual else ""
        return [self.run(x, x_step, f"{y}{shift}", y_step, runs, residual, str(self.blocks), blocks, sums)]

    def chunks(
        self,
        x: str,
        x_step: int,
        y: str,
        y_step: str,
        runs: Mapping[int, int | str],
        residual: str,
        begin: str,
        end: str,
        chunk: int,
        sums: str = "",
    ) -> str:
        """C for many pixels and the blocks from ``begin`` to ``end``, ``chunk`` at a time."""
        count = f"{end} - b < {chunk} ? {end} - b : {chunk}"
        shifted = f"{residual} + 8 * b" if self.residual else ""
        call = self.run(x, x_step, f"{y} + 8 * b", y_step, runs, shifted, "b", count, sums)
        return f"for (int32_t b = {begin}; b < {end}; b += {chunk}) {{\n  {call}\n}}"

    def run(
        self,
        x: str,
        x_step: int,
        y: str,
        y_step: str,
        runs: Mapping[int, int | str],
        residual: str,
        first_block: str = "",
        blocks: str = "",
        sums: str = "",
    ) -> str:
        """One call for ``blocks`` blocks from ``first_block`` on; ``y`` and ``residual`` are at its channels.

        Args:
            sums: of the pixels, where the weights are lifted.
            runs: size of a tile to how many there are, in C.
        """
        w = self.constant.name + (f" + {first_block} * {self.block_bytes}" if first_block else "")
        arguments = [x, str(x_step), w, y, y_step]
        arguments += [residual] if self.residual else []
        arguments += [sums] if self.lifted else []
        arguments += [*(str(runs.get(size, 0)) for size in self.sizes), blocks]
        arguments += self.arguments
        arguments += [str(self.depth)] if self.looped else []
        return f"{self.name}({', '.join(arguments)});"


def lower_pointwise(
    label: str, weight: np.ndarray, e: Epilogue, pixels: int, tile: Callable[[int, Depth], Kernel]
) -> Pointwise:
    """Kernels for ``weight`` (int8 ``[out, in]``, out >= 8).

    Args:
        label: makes the constant's name unique.
        pixels: how many are computed in one call.
        tile: see ``Dialect``.
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
    kernels = [tile(p, depth) for p in sizes]
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
        lifted=e.lifted,
        arguments=e.arguments,
    )
