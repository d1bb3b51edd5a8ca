"""A convolution as a step of a pipeline of rows: its kernels, and what one row of it takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Node, Tensor
from mnv3c.paths.common.wide import in_16_bits
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.depthwise import Depthwise, lower_depthwise
from mnv3c.paths.neon.epilogue import Epilogue, epilogue_of
from mnv3c.paths.neon.lift import split_weights
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.pointwise import Pointwise, lower_pointwise
from mnv3c.paths.neon.windows import Gather, Geometry, Padding, geometry_of, lower_gather

# Beyond this many copies a window, the portable kernel's loops are the better code.
MOST_PIECES = 49


@dataclass(frozen=True, eq=False)
class Step:
    """A convolution with a vector kernel.

    Attributes:
        kind: ``pointwise``; ``depthwise`` or ``window`` (gathered), which read several rows of ``x``.
        table: looked up in each row once that is complete.
        weight: int8; int16 ``[out, taps]`` of a depthwise convolution with 9 bits.
    """

    node: q.FusedConv
    kind: str
    e: Epilogue
    table: q.QLut | None
    weight: np.ndarray
    x: Tensor
    y: Tensor

    @property
    def windowed(self) -> bool:
        return self.kind != "pointwise"

    @property
    def label(self) -> str:
        return identifier(self.node.name)

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.node.conv, self.x, self.y.shape[0], self.y.shape[1])

    @property
    def residual(self) -> str | None:
        """The tensor that is added."""
        return self.node.inputs[1] if self.node.residual is not None else None

    @property
    def row_macs(self) -> int:
        """Multiply-accumulates of an output row."""
        return self.node.conv.weight.size * self.y.shape[1]


def as_fused(node: Node | None) -> q.FusedConv | None:
    """A convolution as a fused one, whether or not anything is fused to it; ``None`` for other nodes."""
    if isinstance(node, q.QConv):
        node = q.FusedConv(node.name, node.inputs, node.outputs, conv=node)
    return node if isinstance(node, q.FusedConv) else None


def step_of(context: Context, node: Node | None) -> Step | None:
    """The step that computes ``node``; ``None`` where its shape has no vector kernel."""
    conv_node = as_fused(node)
    if conv_node is None or in_16_bits(context.graph, conv_node):
        return None
    x, y = context.tensor(conv_node.inputs[0]), context.tensor(conv_node.outputs[0])
    conv, table = conv_node.conv, None
    if conv_node.channel_sum is not None and y.shape[2] % BLOCK:
        return None
    bare = conv_node
    if isinstance(conv_node.activation, q.QLut):
        table = conv_node.activation
        bare = dataclasses.replace(
            conv_node, activation=None, channel_sum=None, outputs=conv_node.outputs[:1]
        )
    weight, lift = conv.weight.reshape(y.shape[2], -1), None
    if weight.dtype != np.int8 and not conv.depthwise:
        split = split_weights(weight)
        if split is None:
            return None
        weight, lift = split
    e = epilogue_of(context.graph, bare, lift)
    if e is None or y.shape[2] < BLOCK:
        return None
    if conv.depthwise:
        kind = "depthwise" if e.kind in ("int8", "swish") else ""
    elif conv.groups != 1:
        kind = ""
    elif conv.pointwise and context.in_arena(conv_node.inputs[0]):
        kind = "pointwise"
    else:
        pieces = conv.kernel[0] * (1 if conv.dilation[1] == 1 else conv.kernel[1])
        kind = "window" if pieces <= MOST_PIECES else ""
    return Step(conv_node, kind, e, table, weight, x, y) if kind else None


@dataclass(frozen=True, eq=False)
class Lowered:
    """The kernels and constants of a step."""

    step: Step
    kernel: Pointwise | Depthwise
    gather: Gather | None
    look_up_kernel: Kernel | None

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        gather = (self.gather.kernel,) if self.gather is not None else ()
        table = (self.look_up_kernel,) if self.look_up_kernel is not None else ()
        sums = (_pixel_sums_kernel(),) if self.step.e.lifted else ()
        return (*gather, *sums, *self.kernel.kernels, *table)

    @property
    def constants(self) -> tuple[Constant, ...]:
        table = self.step.table
        if table is None:
            return (self.kernel.constant,)
        return (self.kernel.constant, Constant(self._table_name, table.table, "table"))

    @property
    def _table_name(self) -> str:
        return f"table_{self.step.label}"

    @property
    def padding(self) -> Padding | None:
        """The zero points of the result among the kernel's constants, if they are there."""
        step, activation = self.step, self.step.node.activation
        if not isinstance(activation, q.QHardSwish) or step.y.quant is None:
            return None
        channels = step.y.shape[2]
        points = np.broadcast_to(np.asarray(step.y.quant.zero_point), (channels,))
        offset = np.broadcast_to(activation.offset, (channels,))
        if channels % BLOCK or not offset.any() or not np.array_equal(points, offset):
            return None
        # Zero points are 8 bits, the last parameter of a block.
        block = self.kernel.block_bytes
        return Padding(f"{self.kernel.constant.name} + {block - BLOCK}", block)

    def pixel_sums(self, x: str, x_step: int, sums: str, pixels: int | str) -> list[str]:
        """C that sums the inputs of ``pixels`` pixels, ``x_step`` bytes apart, if the kernel needs that."""
        if not self.step.e.lifted:
            return []
        return [f"pixel_sums_neon({x}, {x_step}, {sums}, {pixels}, {self.step.weight.shape[1]});"]

    def look_up(self, row: str, channels: str, step: str, pixels: int) -> list[str]:
        """C that looks up ``pixels`` times ``channels`` values, ``step`` bytes apart."""
        if self.step.table is None:
            return []
        return [f"look_up_neon({row}, {self._table_name}, {channels}, {step}, {pixels});"]


def lower_step(context: Context, step: Step, pixels: int | None = None) -> Lowered:
    """Kernels that compute rows of ``step``, or ``pixels`` pixels at a time."""
    conv, label, width = step.node.conv, step.label, pixels or step.y.shape[1]
    dialect = context.dialect
    table = dialect.look_up() if step.table is not None else None
    if step.kind == "depthwise":
        row = lower_depthwise(label, conv, step.weight, step.e, width, dialect.depthwise_pixels)
        context.remember_offsets(step.node.outputs[0], row.constant, step.e)
        return Lowered(step, row, None, table)
    gather = lower_gather(conv, step.geometry) if step.kind == "window" else None
    return Lowered(step, lower_pointwise(label, step.weight, step.e, width, dialect.tile), gather, table)


def sums_bytes(pixels: int) -> int:
    """Scratch for the sums of so many pixels, which are read 4 at a time."""
    return 4 * (pixels + 3)


def _pixel_sums_kernel() -> Kernel:
    return Kernel("pixel_sums_neon", render("kernels/neon/pixel_sums.c.j2"))
