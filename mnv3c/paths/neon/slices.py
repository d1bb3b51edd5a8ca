"""Expand and depthwise convolution in slices of channels: what is done to a channel concerns no other.

Slices share nothing, so that threads compute nothing twice, and channel sums are complete where they are
made. A slice's weights and its ring of rows stay in the first-level cache while all rows pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from mnv3c.codegen.program import Region
from mnv3c.paths.neon.bands import Pipeline
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.depthwise import Depthwise
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.pointwise import Pointwise, pixel_runs
from mnv3c.paths.neon.shares import Shares
from mnv3c.paths.neon.steps import Step, lower_step, sums_bytes
from mnv3c.paths.neon.sums import SUM_PIXELS, sum_call, sum_kernel
from mnv3c.paths.neon.windows import SLACK, Geometry, make_ring
from mnv3c.schedules import table_of

TOGETHER_BYTES = 36 * 1024  # all slices at once cost fewer calls and, up to here, no more line fills


def slice_bytes(inputs: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """Bytes that a slice reads again and again: of an input row, and of each channel's weights and ring.

    Args:
        inputs: channels before the expansion.
        width: of the map before it.
        geometry: of the ring.
    """
    return width * inputs, inputs + geometry.rows * geometry.padded_width


@dataclass(frozen=True)
class Slices:
    """How a stage is cut.

    Attributes:
        cut: the blocks of 8 channels into slices.
        shares: the slices into shares; those of a share use the same scratch, one after the other.
        together: whether one call for all shares computes all slices at once, which needs all their scratch.
    """

    cut: Shares
    shares: Shares
    together: bool


def slices_of(context: Context, expand: Step, middle: Step) -> Slices:
    """As many slices as the knob ``slices`` says, in fair shares."""
    rules, small = table_of("block"), context.options.memory == "small"
    blocks = middle.y.shape[2] // BLOCK
    row, channel = slice_bytes(expand.x.shape[2], expand.x.shape[1], middle.geometry)
    workers = context.knob(middle.node.name, "workers", table_of("pointwise").default_workers())
    own = rules.default_slices(blocks, row, channel * BLOCK, workers, small)
    cut = Shares(blocks, min(context.knob(middle.node.name, "slices", own), blocks))
    fits = row + channel * middle.y.shape[2] <= TOGETHER_BYTES
    if cut.parts == 1 or (fits and not small):
        return Slices(cut, Shares(cut.parts, cut.parts), True)
    even = cut.parts % workers == 0 or cut.parts < workers
    return Slices(cut, Shares(cut.parts, min(cut.parts, workers) if even else cut.parts), False)


def lower_slices(context: Context, expand: Step, middle: Step, slices: Slices) -> Pipeline:
    """One stage for ``expand`` and the depthwise convolution ``middle``, channel sums included."""
    first, second = lower_step(context, expand), lower_step(context, middle)
    assert isinstance(first.kernel, Pointwise) and isinstance(second.kernel, Depthwise)
    g = middle.geometry
    height, width, channels = middle.y.shape
    ring = make_ring(middle.label, g, middle.x, 1, first.padding, "channels")
    runs = pixel_runs(expand.y.shape[1])
    row = ring.row("next1")
    x_row = context.row(expand.node.inputs[0], "next1")
    depth = expand.x.shape[2]
    produce = first.kernel.run(x_row, depth, row, "channels", runs, "", "block", "blocks", "sums")
    totals = first.pixel_sums(x_row, depth, "sums", expand.y.shape[1])
    filled = "\n".join([*totals, produce, *first.look_up(row, f"{expand.y.shape[1]} * channels", "0", 1)])
    out = middle.node.outputs[0]
    to = f"{context.row(out, 'y', const=False)} + 8 * block"
    lines = [
        second.kernel.code("window1", to, "channels", str(channels), "channels", "block"),
        *second.look_up(to, "channels", str(channels), width),
    ]
    tail: list[str] = []
    clear: list[str] = []
    if middle.node.channel_sum is not None:
        sums = f"{context.pointer(middle.node.outputs[1], const=False)} + 8 * block"
        clear = [f"memset({sums}, 0, {4 * BLOCK} * (uint32_t)blocks);"]
        # A sum is of bytes that are still in the first-level cache.
        held = table_of("block").SLICE_BYTES * slices.cut.parts
        if height * width * channels <= held and height * width <= SUM_PIXELS:
            at = f"{context.pointer(out)} + 8 * block"
            tail = [sum_call(at, channels, sums, height * width, "blocks")]
        else:
            lines.append(sum_call(to, channels, sums, width, "blocks"))
    cut, shares, together = slices.cut, slices.shares, slices.together
    begin = cut.begin if together else cut.edge("slice")
    end = cut.end if together else cut.edge("(slice + 1)")
    block_bytes = BLOCK * g.rows * g.padded_width
    if together:
        size, own = block_bytes, "block"
        total = block_bytes * cut.units + SLACK
    else:
        size, own = -(-(block_bytes * max(cut.sizes) + SLACK) // 64) * 64, shares.first
        total = size * shares.parts
    scratch = [Region(f"{middle.label}_scratch", total, 64)]
    own_sums = []
    if expand.e.lifted:
        sums_size = -(-sums_bytes(expand.y.shape[1]) // 64) * 64
        scratch.append(Region(f"{middle.label}_sums", shares.parts * sums_size, 64))
        at = f" + {shares.first} * {sums_size}" if shares.parts > 1 else ""
        own_sums = [f"int32_t *const sums = (int32_t *)(void *)(R_{middle.label}_sums{at});"]
    inner = [
        f"const int32_t block = {begin};",
        f"const int32_t blocks = {end} - block;" if begin != "0" else f"const int32_t blocks = {end};",
        "const int32_t channels = 8 * blocks;",
        f"int8_t *const ring1 = (int8_t *)R_{middle.label}_scratch + {own} * {size};",
        *own_sums,
        *([prepared] if (prepared := ring.prepare("block")) else []),
        *clear,
        "int32_t next1 = 0;",
        f"for (int32_t y = 0; y < {height}; ++y) {{",
        *(f"  {line}" for line in ring.code("y", filled, "\n".join(lines)).rstrip("\n").split("\n")),
        "}",
        *tail,
    ]
    if not together:
        inner = [
            f"for (int32_t slice = {shares.begin}; slice < {shares.end}; ++slice) {{",
            *(f"  {i}" for i in inner),
            "}",
        ]
    sums_used = (sum_kernel(),) if middle.node.channel_sum is not None else ()
    return Pipeline(
        "\n".join(inner),
        (*ring.kernels, *first.kernels, *second.kernels, *sums_used),
        (*ring.constants, *first.constants, *second.constants),
        tuple(scratch),
    )
