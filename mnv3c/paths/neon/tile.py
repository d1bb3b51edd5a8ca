"""The inner product of a few pixels with four output channels, as scheduled assembly.

One step multiplies 16 values of one pixel with 16 weights of one output channel::

    smull   t.8h, x.8b, w.8b      8 products, 16 bits each
    smlal2  t.8h, x.16b, w.16b    8 more on top: 2 * 127 * 128 = 32512 still fits
    sadalp  acc.4s, t.8h          pairs of lanes widen into 4 sums of 32 bits

Compilers keep too many of the 16-bit intermediates alive and spill; in-order cores also wait 4 to 6
cycles for each. So the three instructions of a step are issued two steps apart, and the registers
that a step has read for the last time are loaded again at once. ``Stream`` is that schedule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

CHANNELS = 4  # output channels of a tile: one vector of 32-bit sums
STEP_BYTES = 16
HALF_BYTES = 8


@dataclass(frozen=True)
class Depth:
    """How the reduction over the input channels is cut into slices.

    Attributes:
        half: whether the first slice is 8 channels deep.
        slices: slices of 16 that follow.
    """

    half: bool
    slices: int

    @staticmethod
    def of(channels: int) -> Depth:
        """The cut for ``channels`` input channels; the packed weights are zero beyond them."""
        slices, rest = divmod(channels, STEP_BYTES)
        return Depth(0 < rest <= HALF_BYTES, slices + (rest > HALF_BYTES))

    @property
    def bytes(self) -> int:
        """Depth of the packed weights."""
        return HALF_BYTES * self.half + STEP_BYTES * self.slices

    @property
    def looped(self) -> bool:
        return self.half + self.slices > 3

    def lead(self, period: int) -> int:
        """Slices of 16 before a loop of ``period`` slices an iteration; all of them without a loop.

        The loop only adds, so the slice that sets the sums has to be through before it.
        """
        if not self.looped:
            return self.slices
        least = 2 - self.half
        return least + (self.slices - least) % period

    def label(self, period: int) -> str:
        """What distinguishes the code of a tile; the trip count is an argument."""
        return f"{'h' if self.half else ''}{self.lead(period)}{'n' if self.looped else ''}"


@dataclass(frozen=True)
class _Instruction:
    """``text`` for slice ``index``, issued in ``step``; those of one step are ordered by ``slot``."""

    step: int
    slot: int
    text: str
    index: int

    @property
    def is_load(self) -> bool:
        return self.text.startswith("ld")


class _Registers:
    """Assignment of vector registers for a tile of ``pixels`` x 4 channels.

    The first four belong to the results (named operands), which serve as temporaries before.
    """

    def __init__(self, pixels: int) -> None:
        steps = pixels * CHANNELS
        # A temporary is free again 5 steps after its first use; the assignment has the period of a
        # slice, or of two where a slice is too short for that.
        period = steps if steps >= 5 else 2 * steps
        rounds = max(1, period // 5) if period > 8 else 1
        sizes = sorted(period // rounds + (i < period % rounds) for i in range(rounds))
        self._temporary = [i for size in sizes for i in range(size)]
        following = max(*sizes, CHANNELS)
        self.accumulator = {
            (pixel, channel): following + channel * pixels + pixel
            for channel in range(CHANNELS)
            for pixel in range(pixels)
        }
        following += steps
        # Small tiles have too few steps to hide a load behind: two sets of operands take turns.
        self.sets = 2 if pixels <= 2 else 1
        self._pixels = [
            list(range(following + s * pixels, following + (s + 1) * pixels)) for s in range(self.sets)
        ]
        following += self.sets * pixels
        self._weights = [
            list(range(following + s * CHANNELS, following + (s + 1) * CHANNELS)) for s in range(self.sets)
        ]
        self.used = following + self.sets * CHANNELS
        assert self.used <= 32

    def temporary(self, slice_: int, step: int, steps: int) -> str:
        return self.name(self._temporary[(slice_ * steps + step) % len(self._temporary)])

    def pixel(self, slice_: int, pixel: int) -> int:
        return self._pixels[slice_ % self.sets][pixel]

    def weight(self, slice_: int, channel: int) -> int:
        return self._weights[slice_ % self.sets][channel]

    @staticmethod
    def name(register: int) -> str:
        return f"%[r{register}]" if register < CHANNELS else f"v{register}"


class Stream:
    """The instructions of one tile, in issue order.

    Attributes:
        lines: assembly. Operands: ``r0`` to ``r3`` results; ``x0``... pixels; ``w`` packed weights, which
            moves on; with a loop also ``k``, minus the bytes of a pixel that it covers, and ``e0``...,
            ``f0``...: the end of that pixel, and ``second`` bytes beside it (where that is not 0).
        second: distance of ``f`` from ``e``.
        overread: bytes of weights that ``w`` has moved beyond the tile's own.
    """

    def __init__(self, pixels: int, depth: Depth) -> None:
        self._pixels = pixels
        self._steps = pixels * CHANNELS
        self._registers = _Registers(pixels)
        self._depth = depth
        self.lines: list[str] = []
        self.overread = 0
        self.second = 0
        self._period = self._registers.sets
        if depth.looped:
            self._looped()
        else:
            self._straight()
        self._reduce()

    @property
    def clobbers(self) -> list[str]:
        return [f"v{i}" for i in range(CHANNELS, self._registers.used)]

    def _is_half(self, index: int) -> bool:
        return self._depth.half and index == 0

    def _order(self, step: int) -> tuple[int, int]:
        """Pixel and channel of a step.

        With 4 pixels, a channel's steps come together: a pixel is free 2 steps before it is needed again,
        time enough to load it. With 3 pixels it would be free 1 step before, so there a pixel's steps come
        together and it is the weights that are loaded just in time, each on its own.
        """
        if self._pixels == 3:
            return divmod(step, CHANNELS)
        channel, pixel = divmod(step, self._pixels)
        return pixel, channel

    def _products(self, index: int) -> list[_Instruction]:
        """Slice ``index``; the first one sets the sums that all others add to."""
        regs, out, at = self._registers, [], index * self._steps
        widen = "sadalp" if index else "saddlp"
        for step in range(self._steps):
            pixel, channel = self._order(step)
            t, acc = regs.temporary(index, step, self._steps), regs.accumulator[pixel, channel]
            x, w = regs.pixel(index, pixel), regs.weight(index, channel)
            out.append(_Instruction(at + step, 0, f"smull {t}.8h, v{x}.8b, v{w}.8b", index))
            if not self._is_half(index):
                out.append(_Instruction(at + step + 2, 1, f"smlal2 {t}.8h, v{x}.16b, v{w}.16b", index))
            late = 2 if self._is_half(index) else 4
            out.append(_Instruction(at + step + late, 2, f"{widen} v{acc}.4s, {t}.8h", index))
        return out

    def _loads(self, index: int) -> list[_Instruction]:
        """The operands of slice ``index``: as early as registers are free."""
        regs, pixels, out = self._registers, self._pixels, []
        free = (index - regs.sets + 1) * self._steps
        kind = "d" if self._is_half(index) else "q"
        offset = STEP_BYTES * index
        if self._depth.half and index:
            offset -= HALF_BYTES
        by_pixel = pixels == 3
        for pixel in range(pixels):
            address = f"[%[x{pixel}]{f', #{offset}' if offset else ''}]"
            text = f"ldr {kind}{regs.pixel(index, pixel)}, {address}"
            step = free - self._steps + pixel * CHANNELS + 5 if by_pixel else free - pixels + pixel + 2
            out.append(_Instruction(step, 3, text, index))
        size = HALF_BYTES if kind == "d" else STEP_BYTES
        for channel in range(0, CHANNELS, 1 if by_pixel else 2):
            first = f"{kind}{regs.weight(index, channel)}"
            if by_pixel:
                step, text = free - 2 + channel, f"ldr {first}, [%[w]], #{size}"
            else:
                step = free - self._steps + (channel + 2) * pixels + 1
                text = f"ldp {first}, {kind}{regs.weight(index, channel + 1)}, [%[w]], #{2 * size}"
            out.append(_Instruction(step, 3, text, index))
        return out

    def _slices(self, count: int) -> list[_Instruction]:
        """The whole life of the first ``count`` slices; slice i starts at step i * steps."""
        return [i for index in range(count) for i in (*self._products(index), *self._loads(index))]

    def _emit(self, instructions: Iterable[_Instruction]) -> None:
        self.lines += [i.text for i in sorted(instructions, key=lambda i: (i.step, i.slot))]

    def _emit_first_loads(self, instructions: Iterable[_Instruction]) -> None:
        """Loads from before step 0, those of the first step before all others."""
        loads = [i.text for i in sorted(instructions, key=lambda i: i.index) if i.step < 0]
        pixels = [t for t in loads if "[%[x" in t]
        weights = [t for t in loads if "[%[w]]" in t]
        self.lines += [*pixels[:1], *weights[:1], *pixels[1:], *weights[1:]]

    def _straight(self) -> None:
        stream = self._slices(self._depth.half + self._depth.lead(self._period))
        self._emit_first_loads(stream)
        self._emit(i for i in stream if i.step >= 0)

    def _looped(self) -> None:
        # The loop is the window [begin, end) of an endless stream of slices.
        first = self._depth.half + self._depth.lead(self._period)
        begin, end = first * self._steps, (first + self._period) * self._steps
        stream = self._slices(first + 5)
        self._emit_first_loads(stream)
        self._emit(i for i in stream if 0 <= i.step < begin)
        self.lines.append("1:")
        advance = begin + 3  # between this iteration's loads and those for the next one
        window = [self._indexed(i, first, advance) for i in stream if begin <= i.step < end]
        self._emit(
            [*window, _Instruction(advance, 4, f"adds %[k], %[k], #{STEP_BYTES * self._period}", first)]
        )
        self.lines.append("b.ne 1b")
        last = first + self._period - 1
        self._emit(i for i in stream if i.step >= end and i.index <= last)
        beyond = [i.text for i in stream if i.step < end and i.index > last and "[%[w]]" in i.text]
        self.overread = sum(int(text.split("#")[1]) for text in beyond)

    def _indexed(self, load: _Instruction, first: int, advance: int) -> _Instruction:
        """A load of the loop, relative to ``k``, which moves on in step ``advance``."""
        if "[%[x" not in load.text:
            return load
        offset = STEP_BYTES * (load.index - first) - (STEP_BYTES * self._period if load.step > advance else 0)
        base = "f" if offset else "e"
        assert offset in (0, self.second or offset)
        self.second = offset or self.second
        register, pixel = load.text.split(",")[0], load.text.split("[x")[1][0]
        return replace(load, text=f"{register}, [%[{base}{pixel}], %[k]]")

    def _reduce(self) -> None:
        regs = self._registers
        sums = [[regs.accumulator[pixel, c] for c in range(CHANNELS)] for pixel in range(self._pixels)]
        for a, b, c, d in sums:
            self.lines.append(f"addp v{a}.4s, v{a}.4s, v{b}.4s")
            self.lines.append(f"addp v{c}.4s, v{c}.4s, v{d}.4s")
        for pixel, (a, _, c, _) in enumerate(sums):
            self.lines.append(f"addp {regs.name(pixel)}.4s, v{a}.4s, v{c}.4s")


def _period(pixels: int) -> int:
    return _Registers(pixels).sets


def tile_name(pixels: int, depth: Depth) -> str:
    return f"tile_{pixels}x{CHANNELS}_neon_{depth.label(_period(pixels))}"


def overread(pixels: int, depth: Depth) -> int:
    """Bytes that a tile reads behind its weights."""
    return Stream(pixels, depth).overread


def tile_values(pixels: int, depth: Depth) -> dict[str, object]:
    """What ``templates/kernels/neon/tile.c.j2`` needs."""
    stream = Stream(pixels, depth)
    return {
        "name": tile_name(pixels, depth),
        "pixels": pixels,
        "lines": stream.lines,
        "looped": depth.looped,
        "before_loop": HALF_BYTES * depth.half + STEP_BYTES * depth.lead(_period(pixels)),
        "second": stream.second,
        "clobbers": stream.clobbers,
        "overread": stream.overread,
    }
