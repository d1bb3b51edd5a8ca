"""From int32 accumulators to stored int8: which instructions, and the constants they read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.paths.common.bounds import requantised_range

INT16 = (-32768, 32767)
# Words of a quad's record: 4 biases, 4 multipliers, then what the epilogue asks for.
_QUAD_WORDS = 8


@dataclass(frozen=True)
class Epilogue:
    """The variant of a kernel's epilogue. Each field changes the code; equal ones share it.

    Attributes:
        kind: ``int8``, ``hswish`` or ``residual``.
        saturate: the narrowing to 16 bits may saturate (two instructions instead of one).
        shift: left shift of the accumulators.
        offset: ``none``, ``uniform`` or ``channel``: what is added before the last narrowing.
        clamp_low, clamp_high: the result's bounds are not those of int8.
        swish_channel: the h-swish multiplier differs between channels.
        multiply_accumulate: ``SQRDMLAH`` is proven to equal multiply, saturate and add.
        fraction, residual_bias: of the residual add.
        sum: sums of the result over pixels are wanted.
        store: the result itself is wanted.
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

    @property
    def words(self) -> int:
        """32-bit words of constants a quad."""
        return _QUAD_WORDS + 2 * (self.offset == "channel") + 2 * self.swish_channel

    @property
    def offset_word(self) -> int:
        return _QUAD_WORDS

    @property
    def swish_word(self) -> int:
        return _QUAD_WORDS + 2 * (self.offset == "channel")

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
        return "_".join(p for p in parts if p)


def _offset_kind(offset: np.ndarray) -> str:
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
    )
    if isinstance(node.activation, q.QHardSwish):
        swish = node.activation
        # Fused and separate differ for x = g = -32768 alone, by one unit of y, and that unit is
        # rounded away where no multiplier exceeds a half.
        safe = low > INT16[0] or int(swish.multiplier.max()) <= 1 << 14
        return replace(
            plain,
            kind="hswish",
            offset=_offset_kind(swish.offset),
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
        offset=_offset_kind(requant.offset),
        clamp_low=requant.low > -128,
        clamp_high=requant.high < 127,
    )


def _lanes(values: np.ndarray, quads: int) -> np.ndarray:
    """int16 values a channel, padded with zeros, as ``[quads, 2]`` int32 words."""
    padded = np.zeros(quads * 4, np.int16)
    padded[: values.size] = values
    return padded.view("<i4").reshape(quads, 2)


def quad_records(node: q.FusedConv, e: Epilogue) -> np.ndarray:
    """int32 ``[quads, e.words]``: for every 4 output channels what the epilogue reads."""
    channels = node.conv.weight.shape[0]
    quads = -(-channels // 4)
    vectors = np.zeros((2, quads * 4), np.int32)
    vectors[0, :channels] = node.conv.bias
    vectors[1, :channels] = node.conv.requant.multiplier
    columns = [vectors[0].reshape(quads, 4), vectors[1].reshape(quads, 4)]
    if e.offset == "channel":
        offset = (
            node.activation.offset if isinstance(node.activation, q.QHardSwish) else node.conv.requant.offset
        )
        columns.append(_lanes(np.broadcast_to(offset, (channels,)), quads))
    if e.swish_channel:
        assert isinstance(node.activation, q.QHardSwish)
        columns.append(_lanes(node.activation.multiplier, quads))
    return np.concatenate(columns, axis=1)


def layer_record(node: q.FusedConv) -> np.ndarray:
    """int16 ``[8]``: shift, offset, multiplier of h-swish; low; high; multiplier and bias of the residual."""
    requant = node.conv.requant
    low, high = requant.low, requant.high
    record = [0, int(requant.offset.flat[0]), 0, 0, 0, 0, 0, 0]
    if isinstance(node.activation, q.QHardSwish):
        swish = node.activation
        record[:3] = [swish.shift, int(swish.offset.flat[0]), int(swish.multiplier.flat[0])]
        low, high = -128, 127
    if isinstance(node.activation, q.QHardSigmoid):
        record[1] = node.activation.offset
    if node.residual is not None:
        add = node.residual
        low, high = add.low, add.high
        record[5] = add.multipliers[add.inputs.index(node.inputs[1])]
        record[6] = add.bias
    record[3:5] = [low, high]
    return np.asarray(record, np.int16)
