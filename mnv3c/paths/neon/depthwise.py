"""Depthwise convolution of a row: 8 channels in the lanes, several pixels in registers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import render
from mnv3c.ir import int_ops as q
from mnv3c.paths.common.products import sixteen_bit_groups
from mnv3c.paths.neon.epilogue import Epilogue
from mnv3c.paths.neon.pack import BLOCK, pack_lanes


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A row of a depthwise convolution as kernels and a constant.

    Attributes:
        calls: (kernel name, tiles, pixels a tile) in the order along the row.
        block_bytes: of the constant, from one block of 8 channels to the next.
    """

    kernels: tuple[Kernel, ...]
    constant: Constant
    calls: tuple[tuple[str, int, int], ...]
    stride: int
    block_bytes: int
    arguments: list[str]

    def code(
        self, window: str, out: str, x_step: str, y_step: str, channels: str, first_block: str = ""
    ) -> str:
        """C that computes one row.

        Args:
            window: the rows' pointers; their pixels are ``x_step`` bytes apart.
            out: C expression of the row's address; its pixels are ``y_step`` bytes apart.
            channels: how many, from ``8 * first_block`` on; ``window`` and ``out`` are at the first.
        """
        lines, pixel = [], 0
        scale = "".join(f", {a}" for a in self.arguments)
        w = self.constant.name + (f" + {first_block} * {self.block_bytes}" if first_block else "")
        for name, tiles, pixels in self.calls:
            first = _times(x_step, pixel * self.stride)
            to = f"{out} + {_times(y_step, pixel)}" if pixel else out
            arguments = f"{window}, {first}, {w}, {to}, {tiles}, {x_step}, {y_step}, {channels}{scale}"
            lines.append(f"{name}({arguments});")
            pixel += tiles * pixels
        return "\n".join(lines)


def _times(step: str, factor: int) -> str:
    return str(int(step) * factor) if step.isdigit() else f"{factor} * {step}" if factor else "0"


def row_tiles(width: int, most: int) -> list[tuple[int, int]]:
    """Cut a row into (tiles, pixels) runs: one kind of tile if a size above half of ``most`` divides it."""
    for pixels in range(min(most, width), most // 2, -1):
        if width % pixels == 0:
            return [(width // pixels, pixels)]
    pixels = min(most, width)
    runs = [(width // pixels, pixels)]
    if width % pixels:
        runs.append((1, width % pixels))
    return runs


def lower_depthwise(
    label: str, conv: q.QConv, taps: np.ndarray, e: Epilogue, width: int, most: int
) -> Depthwise:
    """Kernels for rows of ``width`` output pixels; input rows carry their padding.

    Args:
        label: makes the constant's name unique.
        taps: int8 or int16 ``[channels, taps]``; the latter's products are of 32 bits at once.
        most: pixels of a tile.
    """
    channels, kh, kw, _ = conv.weight.shape
    wide = taps.dtype != np.int8
    starts = [] if wide else sixteen_bit_groups(taps)
    packed = pack_lanes(taps, e.parameters)
    kernels, calls = [], []
    for tiles, pixels in row_tiles(width, most):
        cuts = "_".join(str(s) for s in starts[1:])
        name = (
            f"depthwise_{kh}x{kw}_s{conv.stride[1]}d{conv.dilation[1]}_{pixels}x{BLOCK}_neon"
            f"{'' if channels % BLOCK == 0 else '_ragged'}_{e.label}{f'_cut{cuts}' if cuts else ''}"
            f"{'_16' if wide else ''}"
        )
        source = render(
            "kernels/neon/depthwise.c.j2",
            name=name,
            e=e,
            kernel=(kh, kw),
            tap_bytes=BLOCK * kh * kw * taps.dtype.itemsize,
            stride=conv.stride[1],
            aligned=channels % BLOCK == 0,
            group_bytes=packed.shape[1],
            pixels=pixels,
            lines=_wide_lines(conv, pixels) if wide else _tap_lines(conv, starts, pixels),
            columns=_columns(conv, pixels),
        )
        kernels.append(Kernel(name, source))
        calls.append((name, tiles, pixels))
    constant = Constant(f"taps_{label}", packed, "weight")
    return Depthwise(tuple(kernels), constant, tuple(calls), conv.stride[1], packed.shape[1], e.arguments)


def _tap_lines(conv: q.QConv, starts: list[int], pixels: int) -> list[str]:
    """C statements that sum all taps into ``low0``, ``high0``, ...: each input is loaded once a row."""
    kh, kw = conv.kernel
    stride, dilation = conv.stride[1], conv.dilation[1]
    first, last = set(starts), {s - 1 for s in starts[1:]} | {kh * kw - 1}
    lines = [
        "int16x8_t " + ", ".join(f"s{p}" for p in range(pixels)) + ";",
        "int32x4_t " + ", ".join(f"low{p}, high{p}" for p in range(pixels)) + ";",
    ]
    for row in range(kh):
        lines += [f"const int8x8_t w{t} = vld1_s8(v + {8 * t});" for t in range(row * kw, row * kw + kw)]
        for column in _columns(conv, pixels):
            x = f"x{row}_{column}"
            lines.append(f"const int8x8_t {x} = vld1_s8(x{row}{f' + step{column}' if column else ''});")
            for p in range(pixels):
                offset, rest = divmod(column - p * stride, dilation)
                if rest or not 0 <= offset < kw:
                    continue
                tap = row * kw + offset
                product = f"vmull_s8({x}, w{tap})" if tap in first else f"vmlal_s8(s{p}, {x}, w{tap})"
                lines.append(f"s{p} = {product};")
                if tap in last:
                    low, high = (
                        ("low_bias", "high_bias")
                        if tap < (starts[1:] or [kh * kw])[0]
                        else (f"low{p}", f"high{p}")
                    )
                    lines.append(f"low{p} = vaddw_s16({low}, vget_low_s16(s{p}));")
                    lines.append(f"high{p} = vaddw_high_s16({high}, s{p});")
    return lines


def _wide_lines(conv: q.QConv, pixels: int) -> list[str]:
    """The same for taps of 16 bits."""
    kh, kw = conv.kernel
    stride, dilation = conv.stride[1], conv.dilation[1]
    lines = [f"int32x4_t low{p} = low_bias, high{p} = high_bias;" for p in range(pixels)]
    for row in range(kh):
        for t in range(row * kw, row * kw + kw):
            lines.append(f"const int16x8_t w{t} = vld1q_s16((const int16_t *)(const void *)(v + {16 * t}));")
        for column in _columns(conv, pixels):
            x = f"x{row}_{column}"
            at = f"x{row}{f' + step{column}' if column else ''}"
            lines.append(f"const int16x8_t {x} = vmovl_s8(vld1_s8({at}));")
            for p in range(pixels):
                offset, rest = divmod(column - p * stride, dilation)
                if rest or not 0 <= offset < kw:
                    continue
                w = f"w{row * kw + offset}"
                lines.append(f"low{p} = vmlal_s16(low{p}, vget_low_s16({x}), vget_low_s16({w}));")
                lines.append(f"high{p} = vmlal_s16(high{p}, vget_high_s16({x}), vget_high_s16({w}));")
    return lines


def _columns(conv: q.QConv, pixels: int) -> list[int]:
    """Input pixels of a row that a tile reads, from its first on."""
    stride, dilation = conv.stride[1], conv.dilation[1]
    return sorted({p * stride + k * dilation for p in range(pixels) for k in range(conv.kernel[1])})
