"""Small networks that between them use every operator of the integer graph."""

from __future__ import annotations

from mnv3c.ir.graph import Graph
from tests.graphs import Builder, inverted_residual


def classifier(name: str = "net", seed: int = 1) -> Graph:
    """Stem, two inverted residuals (with and without SE and residual), pool, head: int8 in, int16 out."""
    b = Builder(seed, name)
    x = b.hard_swish(b.conv(b.input(12, 11, 3), 8, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 24, 8, 3, 1, reduced=8)
    x = inverted_residual(b, x, 20, 12, 5, 2, swish=False)
    y = b.requantize(b.channel_sum(x), 9)
    return b.finish(b.conv(y, 10, dtype="int16"))


def doors(name: str = "doors", seed: int = 2) -> Graph:
    """uint8 and float inputs, float and int8 outputs, and the rare operators."""
    b = Builder(seed, name)
    pixels = b.flip_sign(b.input(9, 7, 3, dtype="uint8"))
    reals = b.quantize(b.input(9, 7, 3, dtype="float32"), per_channel=True)
    x = b.add(
        b.conv(pixels, 6, offset=True, low=-100, high=90), b.conv(reals, 6, (3, 1), pad=(1, 0, 1, 0)), bias=12
    )
    x = b.max_pool(
        b.lut(b.conv(x, 8, 3, groups=2, dilation=2, pad=(2, 2, 2, 2), shift=1)), 3, 2, (1, 1, 0, 0)
    )
    y = b.conv(x, 8, dtype="int16")
    z = b.add(y, b.conv(x, 8, dtype="int16"), bias=-40)
    return b.finish(b.dequantize(z), x, b.hard_swish(b.depthwise(z, dtype="int16"), per_channel=True))
