"""From 32-bit sums to stored values: what follows the products in every convolution kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph
from mnv3c.paths.common.bounds import requantised_range

CTYPE = {"int8": "int8_t", "int16": "int16_t"}


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Compile-time choices of a kernel's end; ``templates/kernels/neon/epilogue.j2`` writes the code.

    Attributes:
        kind: ``int8``, ``int16``, ``swish``, ``sigmoid`` or ``residual``.
        shift: left shift of the accumulator.
        right: whether the product is shifted right, with rounding, by a number a channel.
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
    def scale(self) -> str | None:
        """Numbers that the kernel takes as arguments, as C: different ones share the code."""
        if self.kind == "residual":
            return f"{self.residual_multiplier}, {-self.fraction}"
        return str(self.unit) if self.kind in ("swish", "sigmoid") else None

    @property
    def scale_parameters(self) -> str:
        """The C parameters that take ``scale``."""
        if self.kind == "residual":
            return ", int16_t scale, int16_t fraction"
        return "" if self.scale is None else ", int16_t scale"

    @property
    def label(self) -> str:
        """Names the code: two epilogues of one label are the same code."""
        parts = [self.kind]
        if self.shift:
            parts.append(f"a{self.shift}")
        if self.right:
            parts.append("right")
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


def epilogue_of(graph: Graph, node: q.FusedConv) -> Epilogue | None:
    """The epilogue of a fused convolution, or ``None`` where it needs a pass of its own (a table)."""
    conv, act, add = node.conv, node.activation, node.residual
    r = conv.requant
    channels = conv.weight.shape[0]
    parameters: list[np.ndarray] = [conv.bias, r.multiplier]
    right = r.right is not None
    if r.right is not None:
        parameters.append(-r.right.astype(np.int32))  # a left shift by less than nothing
    lowest, highest = (-32769, 32768) if right else requantised_range(conv)
    saturate = lowest < -32768 or highest > 32767
    if isinstance(act, q.QLut):
        return None
    if isinstance(act, q.QHardSwish):
        parameters += [_each(act.multiplier, channels)]
        offset = bool(act.offset.any())
        parameters += [_offsets(act.offset, channels)] if offset else []
        # The range of h-swish's input fills 16 bits, so that proofs of the opposite are not worth code.
        return Epilogue("swish", r.shift, True, offset, unit=act.shift, right=right, parameters=parameters)
    if isinstance(act, q.QHardSigmoid):
        return Epilogue("sigmoid", r.shift, True, unit=act.offset, right=right, parameters=parameters)
    if add is not None:
        operand = add.inputs.index(node.inputs[1])
        return Epilogue(
            "residual",
            r.shift,
            saturate,
            low=add.low,
            high=add.high,
            residual_type=CTYPE[graph.tensor(node.inputs[1]).dtype],
            residual_multiplier=add.multipliers[operand],
            fraction=add.fraction,
            bias=add.bias,
            right=right,
            parameters=parameters,
        )
    if graph.tensor(node.outputs[0]).dtype == "int16":
        return Epilogue("int16", r.shift, saturate, right=right, parameters=parameters)
    offset = bool(r.offset.any())
    parameters += [_offsets(r.offset, channels)] if offset else []
    return Epilogue("int8", r.shift, saturate, offset, r.low, r.high, right=right, parameters=parameters)


def _each(values: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(values, (channels,)).astype(np.int16)


def _offsets(values: np.ndarray, channels: int) -> np.ndarray:
    """Zero points fit 8 bits; a model's own offsets may not."""
    wide = _each(values, channels)
    return wide.astype(np.int8) if (wide == wide.astype(np.int8)).all() else wide
