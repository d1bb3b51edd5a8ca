"""From int32 accumulators to stored int8: which instructions, and the constants they read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.paths.common.bounds import requantised_range
from mnv3c.paths.common.short import short_shift
from mnv3c.paths.dotprod.outliers import most_extra_steps

INT16 = (-32768, 32767)


@dataclass(frozen=True)
class Epilogue:
    """The variant of a kernel's epilogue. Each field changes the code; equal ones share it.

    Attributes:
        kind: ``int8``, ``int16``, ``hswish`` or ``residual``; of a vector ``plain``, ``hswish``,
            ``hsigmoid``.
        saturate: the narrowing to 16 bits may saturate (two instructions instead of one).
        shift: left shift of the accumulators.
        offset: ``none``, ``uniform`` or ``channel``: what is added before the last narrowing.
        clamp_low, clamp_high: the result's bounds are not those of int8.
        swish_channel: the h-swish multiplier differs between channels.
        multiply_accumulate: ``SQRDMLAH`` is proven to equal multiply, saturate and add.
        fraction, residual_bias: of the residual add.
        sum: sums of the result over pixels are wanted.
        store: the result itself is wanted.
        wide: biases and multipliers are stored in 32 bits, as they are no numbers of 16 bits times one power
            of two for the layer, or offsets in 16.
        right: a second rounding, by a right shift a channel (``Requant.right``); the record is wide.
        extra: steps behind a group's others, for weights of 9 bits (``outliers``).
    """

    kind: str = "int8"
    saturate: bool = False
    shift: int = 0
    offset: str = "none"
    clamp_low: bool = False
    clamp_high: bool = False
    swish_channel: bool = False
    multiply_accumulate: bool = False
    fraction: int = 0
    residual_bias: bool = False
    sum: bool = False
    store: bool = True
    wide: bool = False
    right: bool = False
    extra: int = 0

    @property
    def words(self) -> int:
        """32-bit words of constants a quad: 4 biases, 4 multipliers, 4 offsets, 4 multipliers of h-swish.

        These are int16, int16, int8 and int16, and all that comes before the last is twice as wide in a
        ``wide`` record. The two last are there only where they differ between channels. Shifts of a second
        rounding, negative and in 32 bits, are behind the multipliers.
        """
        return self.swish_word + 2 * self.swish_channel

    @property
    def multiplier_word(self) -> int:
        """Of a quad's record, the first word of the multipliers."""
        return 4 if self.wide else 2

    @property
    def offset_word(self) -> int:
        """The first word of the offsets."""
        return 2 * self.multiplier_word + 4 * self.right

    @property
    def right_word(self) -> int:
        """The first word of the shifts of a second rounding."""
        return 2 * self.multiplier_word

    @property
    def swish_word(self) -> int:
        """The first word of the multipliers of h-swish."""
        return self.offset_word + (self.offset == "channel") * self.multiplier_word // 2

    @property
    def label(self) -> str:
        """For kernel names: every field that is not at its default."""
        parts = [self.kind if self.kind != "residual" else f"residual{self.fraction}"]
        parts += ["saturate"] if self.saturate else []
        parts += [f"shift{self.shift}"] if self.shift else []
        parts += [{"none": "", "uniform": "offset", "channel": "offsets"}[self.offset]]
        parts += ["low"] if self.clamp_low else []
        parts += ["high"] if self.clamp_high else []
        parts += ["scales"] if self.swish_channel else []
        parts += ["exact"] if self.kind == "hswish" and not self.multiply_accumulate else []
        parts += ["bias"] if self.residual_bias else []
        parts += ["sum"] if self.sum else []
        parts += ["only"] if not self.store else []
        parts += ["twice" if self.right else "wide"] if self.wide else []
        parts += [f"extra{self.extra}"] if self.extra else []
        return "_".join(p for p in parts if p)


def offset_kind(offset: np.ndarray) -> str:
    """``none``, ``uniform`` or ``channel``."""
    if not offset.any():
        return "none"
    return "uniform" if (offset == offset.flat[0]).all() else "channel"


def plan_epilogue(node: q.FusedConv, *, store: bool = True, want_sum: bool | None = None) -> Epilogue:
    """The epilogue of a convolution whose result is int8. ``node.activation`` is none or an h-swish."""
    low, high = requantised_range(node.conv)
    saturate = low < INT16[0] or high > INT16[1]
    plain = Epilogue(
        saturate=saturate,
        shift=node.conv.requant.shift,
        sum=node.channel_sum is not None if want_sum is None else want_sum,
        store=store,
        wide=is_wide(node),
        right=node.conv.requant.right is not None,
        extra=0 if node.conv.depthwise else most_extra_steps(node.conv.weight),
    )
    if isinstance(node.activation, q.QHardSwish):
        swish = node.activation
        # Fused and separate differ for x = g = -32768 alone, by one unit of y, and that unit is
        # rounded away where no multiplier exceeds a half.
        safe = low > INT16[0] or int(swish.multiplier.max()) <= 1 << 14
        return replace(
            plain,
            kind="hswish",
            offset=offset_kind(swish.offset),
            swish_channel=bool((swish.multiplier != swish.multiplier.flat[0]).any()),
            multiply_accumulate=safe,
        )
    if node.residual is not None:
        add = node.residual
        return replace(
            plain,
            kind="residual",
            fraction=add.fraction,
            residual_bias=add.bias != 0,
            clamp_low=add.low > -128,
            clamp_high=add.high < 127,
        )
    requant = node.conv.requant
    return replace(
        plain,
        kind="int8",
        offset=offset_kind(requant.offset),
        clamp_low=requant.low > -128,
        clamp_high=requant.high < 127,
    )


def _offset(node: q.FusedConv) -> np.ndarray:
    """What is added before the last narrowing: int16, one or one a channel."""
    return node.activation.offset if isinstance(node.activation, q.QHardSwish) else node.conv.requant.offset


def short_shifts(bias: np.ndarray, multiplier: np.ndarray, offset: np.ndarray) -> tuple[int, int] | None:
    """Left shifts of biases and multipliers that are stored in 16 bits; ``None`` for a wide record."""
    shifts = short_shift(bias), short_shift(multiplier)
    if None in shifts or offset.min() < -128 or offset.max() > 127:
        return None
    return shifts  # type: ignore[return-value]


def _shifts(node: q.FusedConv) -> tuple[int, int] | None:
    if node.conv.requant.right is not None:
        return None
    return short_shifts(node.conv.bias, node.conv.requant.multiplier, _offset(node))


def shift_entry(shifts: tuple[int, int] | None) -> int:
    """How a layer's record holds the shifts: a byte each."""
    return shifts[0] | shifts[1] << 8 if shifts else 0


def is_wide(node: q.FusedConv) -> bool:
    """Whether the constants of a convolution's channels don't fit a short record (``Epilogue.wide``)."""
    return _shifts(node) is None


def _words(values: np.ndarray, quads: int, dtype: type) -> np.ndarray:
    """Values a channel, padded with zeros, as int32 words ``[quads, n]``."""
    padded: np.ndarray = np.zeros(quads * 4, dtype)
    padded[: values.size] = values
    return padded.view("<i4").reshape(quads, -1)


def records(
    bias: np.ndarray,
    multiplier: np.ndarray,
    offset: np.ndarray | None,
    swish: np.ndarray | None,
    shifts: tuple[int, int] | None,
    right: np.ndarray | None = None,
) -> np.ndarray:
    """int32 ``[quads, words]``: for every 4 channels their constants, as ``Epilogue.words`` says.

    Args:
        offset, swish: one value a channel; ``None`` where they are not of the record.
        shifts: from ``short_shifts``.
        right: of a second rounding, one value a channel; goes with a wide record.
    """
    quads = -(-bias.size // 4)
    if shifts is None:
        columns = [_words(v, quads, np.int32) for v in (bias, multiplier)]
    else:
        pairs = zip((bias, multiplier), shifts, strict=True)
        columns = [_words(values >> shift, quads, np.int16) for values, shift in pairs]
    if right is not None:
        columns.append(_words(-right.astype(np.int32), quads, np.int32))  # a left shift by less than nothing
    if offset is not None:
        columns.append(_words(np.broadcast_to(offset, bias.shape), quads, np.int8 if shifts else np.int16))
    if swish is not None:
        columns.append(_words(swish, quads, np.int16))
    return np.concatenate(columns, axis=1)


def quad_records(node: q.FusedConv, e: Epilogue) -> np.ndarray:
    """int32 ``[quads, e.words]``: for every 4 output channels what the epilogue reads."""
    swish = node.activation.multiplier if isinstance(node.activation, q.QHardSwish) else None
    return records(
        node.conv.bias,
        node.conv.requant.multiplier,
        _offset(node) if e.offset == "channel" else None,
        swish if e.swish_channel else None,
        None if e.wide else _shifts(node),
        node.conv.requant.right,
    )


def requant_record(requant: q.Requant, shifts: tuple[int, int] | None) -> np.ndarray:
    """int16 ``[8]``, as ``layer_record``."""
    offset = int(requant.offset.flat[0])
    return np.asarray([0, offset, 0, requant.low, requant.high, 0, 0, shift_entry(shifts)], np.int16)


def layer_record(node: q.FusedConv) -> np.ndarray:
    """int16 ``[8]``: shift, offset, multiplier of h-swish; low; high; residual multiplier and bias; shifts.

    The last one's bytes are the left shifts of biases and of multipliers that are stored in 16 bits.
    """
    record = requant_record(node.conv.requant, _shifts(node))
    if isinstance(node.activation, q.QHardSwish):
        swish = node.activation
        record[:3] = [swish.shift, int(swish.offset.flat[0]), int(swish.multiplier.flat[0])]
        record[3:5] = [-128, 127]
    if isinstance(node.activation, q.QHardSigmoid):
        record[1] = node.activation.offset
    if node.residual is not None:
        add = node.residual
        record[3:5] = [add.low, add.high]
        record[5] = add.multipliers[add.inputs.index(node.inputs[1])]
        record[6] = add.bias
    return record
