"""From 32-bit sums to stored values: what follows the products in every convolution kernel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.paths.common.bounds import requantised_range
from mnv3c.paths.common.short import short_shift

CTYPE = {"int8": "int8_t", "int16": "int16_t"}


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Compile-time choices of a kernel's end; ``templates/kernels/neon/epilogue.j2`` writes the code.

    Attributes:
        kind: ``int8``, ``int16``, ``swish``, ``sigmoid`` or ``residual``.
        shift: left shift of the accumulator.
        right: whether the product is shifted right, with rounding, by a number a channel.
        lifted: whether a multiple of the pixel's sum is added, by an int16 a channel (``lift.py``).
        units: of biases and multipliers that are stored in 16 bits, powers of two; arguments of the kernel.
        saturate: whether narrowing to 16 bits may saturate.
        offset: whether an int16 a channel is added before the clamp.
        low, high: clamp of an int8 result.
        unit: h-swish's shift, hard sigmoid's offset; an argument of the kernel.
        residual_type, bias: of a residual add.
        residual_multiplier, fraction: of a residual add; arguments of the kernel.
        parameters: arrays ``[out]`` in the order in which the kernel reads them.
    """

    kind: str
    shift: int
    saturate: bool
    offset: bool = False
    low: int = -128
    high: int = 127
    unit: int = 0
    residual_type: str = ""
    residual_multiplier: int = 0
    fraction: int = 0
    bias: int = 0
    right: bool = False
    lifted: bool = False
    units: tuple[int, int] | None = None
    parameters: list[np.ndarray] = field(default_factory=list)

    @property
    def out_type(self) -> str:
        return "int16_t" if self.kind in ("int16", "sigmoid") else "int8_t"

    @property
    def offset_type(self) -> str:
        return "int8_t" if self.offset and self.parameters[-1].dtype == np.int8 else "int16_t"

    @property
    def zero_points(self) -> np.ndarray | None:
        """The 8-bit offsets, which a block of packed constants ends with."""
        return self.parameters[-1] if self.offset and self.offset_type == "int8_t" else None

    @property
    def parameter_bytes(self) -> int:
        """Bytes of parameters for each channel."""
        return sum(p.dtype.itemsize for p in self.parameters)

    @property
    def word_bytes(self) -> int:
        """Bytes of a block's parameters up to the first of those that the 16-bit results need."""
        return 8 * (4 if self.units is not None else 12 if self.right else 8) + 16 * self.lifted

    @property
    def arguments(self) -> list[str]:
        """Numbers that the kernel takes as arguments, as C: different ones share the code."""
        values = []
        if self.kind == "residual":
            values = [str(self.residual_multiplier), str(-self.fraction)]
        elif self.kind in ("swish", "sigmoid"):
            values = [str(self.unit)]
        if self.units is not None:
            bias, multiplier = self.units
            values.append(str(bias + (multiplier << 16) - (multiplier >> 15 << 32)))
        return values

    @property
    def declarations(self) -> str:
        """The C parameters that take ``arguments``."""
        names = []
        if self.kind == "residual":
            names = ["int16_t scale", "int16_t fraction"]
        elif self.kind in ("swish", "sigmoid"):
            names = ["int16_t scale"]
        if self.units is not None:
            names.append("int32_t units")
        return "".join(f", {n}" for n in names)

    @property
    def label(self) -> str:
        """Names the code: two epilogues of one label are the same code."""
        parts = [self.kind]
        if self.shift:
            parts.append(f"a{self.shift}")
        if self.right:
            parts.append("right")
        if self.lifted:
            parts.append("lifted")
        if self.units is None:
            parts.append("wide")
        if not self.saturate:
            parts.append("exact")
        if self.offset:
            parts.append("offset" if self.offset_type == "int8_t" else "offset16")
        if self.kind == "residual":
            parts += [self.residual_type[3:-2]]
            parts += [f"b{self.bias}"] if self.bias else []
        if (self.low, self.high) != (-128, 127):
            parts.append(f"c{self.low}to{self.high}")
        return "_".join(parts).replace("-", "n")


def epilogue_of(graph: Graph, node: q.FusedConv, lift: np.ndarray | None = None) -> Epilogue | None:
    """The epilogue of a fused convolution, or ``None`` where it needs a pass of its own (a table).

    Args:
        lift: int16 ``[out]``, times which the sum of a pixel's inputs is added.
    """
    conv, act, add = node.conv, node.activation, node.residual
    r = conv.requant
    channels = conv.weight.shape[0]
    parameters, units = short_words(conv.bias, r.multiplier, r.right)
    right = r.right is not None
    if r.right is not None:
        parameters.append(-r.right.astype(np.int32))  # a left shift by less than nothing
    if lift is not None:
        parameters.append(lift)
    lowest, highest = (-32769, 32768) if right else requantised_range(conv)
    saturate = lowest < -32768 or highest > 32767
    if isinstance(act, q.QLut):
        return None
    e = Epilogue("int8", r.shift, saturate, right=right, units=units, parameters=parameters)
    e = replace(e, lifted=lift is not None)
    if isinstance(act, q.QHardSwish):
        parameters += [_each(act.multiplier, channels)]
        offset = bool(act.offset.any())
        parameters += [_offsets(act.offset, channels)] if offset else []
        # The range of h-swish's input fills 16 bits, so that proofs of the opposite are not worth code.
        return replace(e, kind="swish", saturate=True, offset=offset, unit=act.shift)
    if isinstance(act, q.QHardSigmoid):
        return replace(e, kind="sigmoid", saturate=True, unit=act.offset)
    if add is not None:
        operand = add.inputs.index(node.inputs[1])
        return replace(
            e,
            kind="residual",
            low=add.low,
            high=add.high,
            residual_type=CTYPE[graph.tensor(node.inputs[1]).dtype],
            residual_multiplier=add.multipliers[operand],
            fraction=add.fraction,
            bias=add.bias,
        )
    if graph.tensor(node.outputs[0]).dtype == "int16":
        return replace(e, kind="int16")
    offset = bool(r.offset.any())
    parameters += [_offsets(r.offset, channels)] if offset else []
    return replace(e, offset=offset, low=r.low, high=r.high)


def pool_epilogue(node: q.Requantize, dtype: str) -> Epilogue:
    """What follows the channel sums of a pool; ``dtype`` is the result's."""
    r, channels = node.requant, node.bias.shape[0]
    parameters, units = short_words(node.bias, _each(r.multiplier, channels, np.int32), r.right)
    if r.right is not None:
        parameters.append(-_each(r.right, channels, np.int32))
    offset = dtype == "int8" and bool(r.offset.any())
    parameters += [_offsets(r.offset, channels)] if offset else []
    right = r.right is not None
    return Epilogue(
        dtype, r.shift, True, offset, r.low, r.high, right=right, units=units, parameters=parameters
    )


def short_words(
    bias: np.ndarray, multiplier: np.ndarray, right: np.ndarray | None = None
) -> tuple[list[np.ndarray], tuple[int, int] | None]:
    """Biases and multipliers as they are stored: int16 and uint16 with their units, if they are such numbers.

    Without units they are int32, as they are where there are right shifts.
    """
    shifts = short_shift(bias), short_shift(multiplier)
    if right is not None or shifts[0] is None or shifts[1] is None or shifts[0] > 14:
        return [bias, multiplier], None
    # A unit is 16 bits itself, which 2**16 is not; unsigned multipliers have a bit to spare.
    shift = min(shifts[1], 15)
    return [
        (bias >> shifts[0]).astype(np.int16),
        (multiplier >> shift).astype(np.uint16),
    ], (1 << shifts[0], 1 << shift)


def _each(values: np.ndarray, channels: int, dtype: type[np.integer] = np.int16) -> np.ndarray:
    return np.broadcast_to(values, (channels,)).astype(dtype)


def _offsets(values: np.ndarray, channels: int) -> np.ndarray:
    """Zero points fit 8 bits; a model's own offsets may not."""
    wide = _each(values, channels)
    return wide.astype(np.int8) if (wide == wide.astype(np.int8)).all() else wide
