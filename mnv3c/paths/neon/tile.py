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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHANNELS = 4  # output channels of a tile: one vector of 32-bit sums
STEP_BYTES = 16


@dataclass(frozen=True)
class Depth:
    """How the reduction over the input channels is cut into 16-deep slices.

    Attributes:
        lead: slices before the loop, 0 to 2.
        pairs: iterations of the loop, two slices each.
        half: whether 1 to 8 channels are left at the end.
    """

    lead: int
    pairs: int
    half: bool

    @staticmethod
    def of(channels: int) -> Depth:
        """The cut for ``channels`` input channels; the packed weights are zero beyond them."""
        slices, rest = divmod(channels, STEP_BYTES)
        if rest > STEP_BYTES // 2:
            slices, rest = slices + 1, 0
        if slices <= 2:
            return Depth(slices, 0, rest > 0)
        lead = 2 - slices % 2
        return Depth(lead, (slices - lead) // 2, rest > 0)

    @property
    def slices(self) -> int:
        """Slices of 16 in the packed weights, the last one half used where ``half`` is set."""
        return self.lead + 2 * self.pairs + self.half

    @property
    def label(self) -> str:
        """What distinguishes the code (not the trip count, which is an argument)."""
        return f"l{self.lead}{'n' if self.pairs else ''}{'h' if self.half else ''}"


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
        lines: assembly with operands ``r0`` to ``r3`` (results), ``x0``... (pixel pointers), ``w``
            (packed weights) and ``k`` (loop count).
        overread: bytes of weights that ``w`` has moved beyond the tile's own.
    """

    def __init__(self, pixels: int, depth: Depth) -> None:
        self._pixels = pixels
        self._steps = pixels * CHANNELS
        self._registers = _Registers(pixels)
        self.lines: list[str] = []
        self.overread = 0
        if depth.pairs:
            self._looped(depth)
        else:
            self._straight(depth)
        self._reduce()

    @property
    def clobbers(self) -> list[str]:
        return [f"v{i}" for i in range(CHANNELS, self._registers.used)]

    def _products(
        self, index: int, at: int, *, full: bool, first: bool, accumulate_from: int
    ) -> list[_Instruction]:
        """Slice ``index`` at step ``at``. The first slice sets its sums, but for those of steps from
        ``accumulate_from`` on, which are zeroed and added to like all others."""
        regs, out = self._registers, []
        for step in range(self._steps):
            channel, pixel = divmod(step, self._pixels)
            t, acc = regs.temporary(index, step, self._steps), regs.accumulator[pixel, channel]
            x, w = regs.pixel(index, pixel), regs.weight(index, channel)
            out.append(_Instruction(at + step, 0, f"smull {t}.8h, v{x}.8b, v{w}.8b", index))
            if full:
                out.append(_Instruction(at + step + 2, 1, f"smlal2 {t}.8h, v{x}.16b, v{w}.16b", index))
            widen = "sadalp"
            if first and step < accumulate_from:
                widen = "saddlp"
            elif first:
                out.append(_Instruction(at + step, 0, f"movi v{acc}.4s, #0", index))
            out.append(_Instruction(at + step + (4 if full else 2), 2, f"{widen} v{acc}.4s, {t}.8h", index))
        return out

    def _loads(self, index: int, at: int) -> list[_Instruction]:
        """The operands of slice ``index``, which starts at step ``at``: as early as registers are free."""
        regs, pixels, out = self._registers, self._pixels, []
        free = at - self._steps * (regs.sets - 1)
        for pixel in range(pixels):
            step = free - pixels + pixel + 2
            out.append(_Instruction(step, 3, f"ldr q{regs.pixel(index, pixel)}, [%[x{pixel}]], #16", index))
        for channel in range(0, CHANNELS, 2):
            step = free - self._steps + (channel + 2) * pixels + 1
            pair = f"q{regs.weight(index, channel)}, q{regs.weight(index, channel + 1)}"
            out.append(_Instruction(step, 3, f"ldp {pair}, [%[w]], #32", index))
        return out

    def _slices(self, full: Sequence[bool], drained: int) -> list[_Instruction]:
        """The whole life of consecutive slices; slice i starts at step i * steps."""
        out: list[_Instruction] = []
        for index, is_full in enumerate(full):
            at = index * self._steps
            start = drained if index == 0 else self._steps
            out += self._products(index, at, full=is_full, first=index == 0, accumulate_from=start)
            out += self._loads(index, at)
        return out

    def _emit(self, instructions: Iterable[_Instruction]) -> None:
        self.lines += [i.text for i in sorted(instructions, key=lambda i: (i.step, i.slot))]

    def _emit_first_loads(self, instructions: Iterable[_Instruction]) -> None:
        """Loads from before step 0, those of the first step before all others."""
        loads = [i.text for i in sorted(instructions, key=lambda i: i.index) if i.step < 0]
        pixels = [t for t in loads if t.startswith("ldr")]
        weights = [t for t in loads if t.startswith("ldp")]
        self.lines += [*pixels[:1], *weights[:1], *pixels[1:], *weights[1:]]

    def _straight(self, depth: Depth) -> None:
        stream = self._slices([True] * depth.lead + [False] * depth.half, self._steps)
        self._emit_first_loads(stream)
        self._emit(i for i in stream if i.step >= 0)

    def _looped(self, depth: Depth) -> None:
        # The loop is the window [begin, end) of an endless stream of full slices.
        begin = depth.lead * self._steps
        end = begin + 2 * self._steps
        # What the first slice issues inside the window must be what every later slice issues there.
        drained = self._steps - 4 if depth.lead == 1 else self._steps
        stream = self._slices([True] * (depth.lead + 5), drained)
        self._emit_first_loads(stream)
        self._emit(i for i in stream if 0 <= i.step < begin)
        self.lines.append("1:")
        count = _Instruction(end - 3, 4, "subs %w[k], %w[k], #1", 0)
        self._emit([*(i for i in stream if begin <= i.step < end), count])
        self.lines.append("b.ne 1b")
        last = depth.lead + 1  # the window's last full slice
        after = [i for i in stream if i.step >= end and i.index <= last]
        half = self._products(last + 1, end, full=False, first=False, accumulate_from=self._steps)
        if depth.half:
            after += half + [i for i in stream if i.step >= end and i.index == last + 1 and i.is_load]
        self._emit(after)
        wanted = last + depth.half
        self.overread = 32 * sum(
            i.step < end and i.index > wanted and i.text.startswith("ldp") for i in stream
        )

    def _reduce(self) -> None:
        regs = self._registers
        sums = [[regs.accumulator[pixel, c] for c in range(CHANNELS)] for pixel in range(self._pixels)]
        for a, b, c, d in sums:
            self.lines.append(f"addp v{a}.4s, v{a}.4s, v{b}.4s")
            self.lines.append(f"addp v{c}.4s, v{c}.4s, v{d}.4s")
        for pixel, (a, _, c, _) in enumerate(sums):
            self.lines.append(f"addp {regs.name(pixel)}.4s, v{a}.4s, v{c}.4s")


def tile_name(pixels: int, depth: Depth) -> str:
    return f"tile_{pixels}x{CHANNELS}_neon_{depth.label}"


def tile_values(pixels: int, depth: Depth) -> dict[str, object]:
    """What ``templates/kernels/neon/tile.c.j2`` needs."""
    stream = Stream(pixels, depth)
    return {
        "name": tile_name(pixels, depth),
        "pixels": pixels,
        "lines": stream.lines,
        "loop": depth.pairs > 0,
        "clobbers": stream.clobbers,
        "overread": stream.overread,
    }
