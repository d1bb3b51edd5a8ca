"""1x1 convolutions over tiles: the kernel for a shape, its packed weights and the call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.common.knobs import Knob, by_rule, tile_sizes
from mnv3c.paths.dotprod.epilogue import Epilogue
from mnv3c.paths.dotprod.loads import loads_of
from mnv3c.paths.dotprod.outliers import header_steps, pack_extra, split
from mnv3c.schedules import table_of


@dataclass(frozen=True)
class PointwiseKernel:
    """A rendered kernel and how a call drives it.

    Attributes:
        quads: output channel quads a group.
        unroll: input channel quads a turn of the innermost loop.
        depth: turns of it.
        steps: main block groups in each row.
        quad_bytes: packed weights of an output channel quad.
        unit: input channels a step.
        extra: steps that a group may have behind all others, see ``outliers``.
    """

    kernel: Kernel
    quads: int
    unroll: int
    depth: int
    steps: int
    quad_bytes: int
    unit: int = 4
    extra: int = 0

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """int8 or int16 ``[out, in]`` as the kernel reads it."""
        if not self.extra:
            return self.lay_out(weight)
        base = self.lay_out(split(weight).base).reshape(-(-weight.shape[0] // (4 * self.quads)), -1)
        return np.concatenate([base, pack_extra(weight, self.quads, self.unit, self.extra)], axis=1)

    def lay_out(self, weight: np.ndarray) -> np.ndarray:
        """The weights of 8 bits."""
        return pack_pointwise(weight, self.quads)


@dataclass(frozen=True)
class InOrderKernel(PointwiseKernel):
    """A kernel that loads one step ahead."""

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """As the kernel reads it, with room for the step that it loads but does not use."""
        return np.concatenate([super().pack(weight).reshape(-1), np.zeros(16 * self.quads, np.int8)])


@dataclass(frozen=True)
class PairedKernel(PointwiseKernel):
    """Its weights lie in pairs of input quads, as the i8mm path's do: a library of both has them once."""

    def lay_out(self, weight: np.ndarray) -> np.ndarray:
        """See ``pack_pairs``."""
        return pack_pairs(weight, self.quads)


def pointwise_kernel(
    in_quads: int,
    out_quads: int,
    columns: int,
    lanes: str,
    e: Epilogue,
    edge_pixels: int = 0,
    plain: Collection[str] = (),
    in_order: bool = False,
    knob: Knob = by_rule,
) -> PointwiseKernel:
    """The kernel for rows of ``columns`` blocks.

    Args:
        lanes: ``pixel`` for a pixel-minor result (expand), ``channel`` for a channel-minor one (project).
        edge_pixels: pixels of each row's last block that lie in the image, 0 for all.
        in_order: for cores that issue in order; reads 16 bytes beyond the input.
        plain: of ``in``, ``out`` and ``residual`` those that are in tiles; here they all are anyway.
        knob: see ``schedules/pointwise.py``.
    """
    del plain
    rules = table_of("pointwise")
    pixels, channels = tile_sizes(knob("tile", rules.default_tile(out_quads)))
    quads = channels // 4
    unroll = knob("unroll", rules.default_unroll(in_quads))
    blocks = min(pixels // 4, columns)
    loads = knob("loads", rules.default_loads(in_order))
    in_order = loads == "ahead"
    steps, tail = divmod(columns, blocks)
    if edge_pixels and tail == 0:
        steps, tail = steps - 1, blocks
    verb = "expand" if lanes == "pixel" else "project"
    turns = "once" if in_quads == unroll else ""
    wanted = knob("start", rules.default_start(lanes, columns // blocks, edge_pixels > 0, loads))
    start_blocks = max(blocks if steps else 0, tail) if wanted == "table" and not in_order else 0
    start = "start_" if start_blocks else ""
    # Any 4 bytes can be a lane of weights: so they may lie as the matrix products of i8mm want them.
    # With 2 quads by 3 blocks the registers would run out.
    paired = lanes == "pixel" and unroll % 2 == 0 and quads == 3 and not in_order
    shape = f"{blocks if steps else 0}_{tail}e{edge_pixels}x{quads}_k{unroll}{turns}"
    single, attribute = loads_of(knob)
    name = f"{verb}_{shape}_{start}{e.label}{single}_dotprod{'_a55' if in_order else ''}"
    header = header_steps(quads, 4, e.extra)
    source = render(
        "kernels/dotprod/pointwise.c.j2",
        tile=None,
        loads=attribute,
        header=header,
        in_order=in_order,
        paired=paired,
        start_blocks=start_blocks,
        name=name,
        epilogue=e,
        r=replace(e, wide=True),
        lanes=lanes,
        blocks=blocks,
        tail=tail,
        has_main=steps > 0,
        quads=quads,
        unroll=unroll,
        depth=in_quads // unroll,
        turn_bytes=16 * unroll * quads,
        rest_bytes=16 * quads * (header + e.extra),
        edge_pixels=edge_pixels,
        edge_mask=(1 << 8 * edge_pixels) - 1 & 0x01010101,
    )
    kind = InOrderKernel if in_order else PairedKernel if paired else PointwiseKernel
    quad_bytes = 16 * (in_quads + header + e.extra)
    return kind(Kernel(name, source), quads, unroll, in_quads // unroll, steps, quad_bytes, extra=e.extra)


def pack_pairs(weight: np.ndarray, group: int) -> np.ndarray:
    """int8 ``[out, in]`` to ``[out quads / group][in / 8][group][4 outputs][8 inputs]``, zero padded."""
    out, depth = weight.shape
    quads, octets = -(-out // 4), -(-depth // 8)
    padded = np.zeros((quads * 4, octets * 8), np.int8)
    padded[:out, :depth] = weight
    divided = padded.reshape(quads // group, group, 4, octets, 8)
    return np.ascontiguousarray(divided.transpose(0, 3, 1, 2, 4))


def pack_pointwise(weight: np.ndarray, group: int) -> np.ndarray:
    """int8 ``[out, in]`` to ``[out quads / group][in quads][group][4 outputs][4 inputs]``, zero padded."""
    out, depth = weight.shape
    out_quads, in_quads = -(-out // 4), -(-depth // 4)
    padded = np.zeros((out_quads * 4, in_quads * 4), np.int8)
    padded[:out, :depth] = weight
    divided = padded.reshape(out_quads // group, group, 4, in_quads, 4)
    return np.ascontiguousarray(divided.transpose(0, 3, 1, 2, 4))


def call(function: str, kind: str, fields: Mapping[str, object]) -> str:
    """C that calls ``function`` with a struct of that kind; fields not named are zero."""
    inside = ", ".join(f".{k} = {v}" for k, v in fields.items())
    return f"{{\n  const {kind} call = {{ {inside} }};\n  {function}(&call);\n}}"
