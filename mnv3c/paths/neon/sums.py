"""Sums of channels over pixels, for pooling."""

from __future__ import annotations

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.pack import BLOCK

SUM_PIXELS = 255  # as many int8 values add up in 16 bits


def sum_kernel() -> Kernel:
    return Kernel("channel_sum_neon", render("kernels/neon/channel_sum.c.j2"))


def sum_call(x: str, step: int, sums: str, pixels: int | str, blocks: int | str) -> str:
    """C that adds at most ``SUM_PIXELS`` pixels, ``step`` bytes apart, to ``sums``."""
    return f"channel_sum_neon({x}, {step}, {sums}, {pixels}, {blocks});"


def sum_code(context: Context, x: str, sums: str, begin: str = "0", blocks: str = "") -> str:
    """C that sums channels of a whole tensor: ``blocks`` times 8 from ``8 * begin`` on, all unless given."""
    t = context.tensor(x)
    pixels, channels = t.shape[0] * t.shape[1], t.shape[2]
    shift = f" + 8 * {begin}" if begin != "0" else ""
    count = blocks or str(channels // BLOCK)
    total = f"{context.pointer(sums, const=False)}{shift}"
    size = f"{4 * BLOCK} * (uint32_t){blocks}" if blocks else str(4 * channels)
    clear = f"memset({total}, 0, {size});\n"
    if pixels <= SUM_PIXELS:
        return clear + sum_call(f"{context.pointer(x)}{shift}", channels, total, pixels, count)
    at = f"{context.pointer(x)} + p * {channels}{shift}"
    return clear + (
        f"for (int32_t p = 0; p < {pixels}; p += {SUM_PIXELS}) {{\n"
        f"  const int32_t count = {pixels} - p < {SUM_PIXELS} ? {pixels} - p : {SUM_PIXELS};\n"
        f"  {sum_call(at, channels, total, 'count', count)}\n"
        "}"
    )
