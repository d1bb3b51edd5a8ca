"""Convolutions row by row, each row's inputs just in time, in bands of rows for several threads.

A step that needs windows reads a ring of padded rows; the step before fills it no further than the next
output row asks for. So no tensor between two steps ever exists as a whole. Each band brings in the rows
above its first window by itself; in one call for all bands nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv3c.codegen.program import Constant, Kernel, Region
from mnv3c.ir.graph import Node
from mnv3c.paths.neon.context import Context
from mnv3c.paths.neon.depthwise import Depthwise
from mnv3c.paths.neon.elementwise import door_of
from mnv3c.paths.neon.pointwise import Pointwise
from mnv3c.paths.neon.shares import Shares
from mnv3c.paths.neon.steps import Lowered, Step, lower_step, sums_bytes
from mnv3c.paths.neon.windows import SLACK, Ring, make_ring

_ALIGN = 64


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a pointwise step reads: ``slots`` of them, the newest ones, for a residual add as well."""

    level: int
    slots: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        return self.slots * self.row_bytes + SLACK

    def row(self, number: str) -> str:
        if self.slots == 1:
            return f"rows{self.level}"
        return f"rows{self.level} + {number} % {self.slots} * {self.row_bytes}"


@dataclass(frozen=True, eq=False)
class Pipeline:
    """C of a stage and what it names."""

    body: str
    kernels: tuple[Kernel, ...]
    constants: tuple[Constant, ...]
    scratch: tuple[Region, ...]


def held_residual(steps: Sequence[Step], index: int) -> int | None:
    """The step whose output, held in rows, step ``index`` adds; ``None`` if what it adds is dense.

    Raises ``ValueError`` where those rows are gone by then.
    """
    name = steps[index].residual
    source = next((j for j in range(index) if steps[j].node.outputs[0] == name), None)
    if source is None:
        return None
    windows = [s for s in steps[source + 1 : index + 1] if s.windowed]
    g = windows[0].geometry if len(windows) == 1 else None
    if g is None or g.stride != 1 or g.extent <= g.top or g.height != g.out_height:
        raise ValueError(f"{name} is not there any more")
    return source


def scratch_bytes(context: Context, steps: Sequence[Step]) -> int:
    """Of one share."""
    return _Emitter(context, steps, None).share_bytes


def pulls(context: Context, steps: Sequence[Step], door: Node | None) -> bool:
    """Whether bands of ``steps`` take rows of the network's image from a camera: bytes alone."""
    source = door.inputs[0] if door is not None else steps[0].node.inputs[0]
    return (
        context.options.camera
        and steps[0].windowed
        and source in context.graph.inputs
        and context.tensor(source).dtype in ("int8", "uint8")
    )


def lower_bands(context: Context, steps: Sequence[Step], shares: Shares, door: Node | None) -> Pipeline:
    """One stage for ``steps``, whose last one's rows are cut into ``shares``.

    Args:
        door: makes the rows of what the first step reads, a window, from the network's input.
    """
    return _Emitter(context, steps, door).pipeline(shares)


class _Emitter:
    def __init__(self, context: Context, steps: Sequence[Step], door: Node | None) -> None:
        self.context, self.steps = context, steps
        self.door_node, self.door = door, door_of(context, door)
        self.lowered = [lower_step(context, s) for s in steps]
        self.held = {i: held_residual(steps, i) for i, s in enumerate(steps) if s.residual is not None}
        # What each step reads from, unless that is a dense tensor, and where windows are gathered.
        self.sources: list[Ring | Rows | None] = [self._source(i) for i in range(len(steps))]
        self.buffers: list[tuple[str, int]] = []
        for i, source in enumerate(self.sources):
            if isinstance(source, Ring):
                self.buffers.append((f"ring{i}", source.geometry.bytes))
            elif source is not None:
                self.buffers.append((f"rows{i}", source.bytes))
            gather = self.lowered[i].gather
            if gather is not None:
                self.buffers.append((f"columns{i}", gather.bytes))
            if steps[i].e.lifted:
                self.buffers.append((f"sums{i}", sums_bytes(steps[i].y.shape[1])))

    @property
    def share_bytes(self) -> int:
        return sum(-(-size // _ALIGN) * _ALIGN for _, size in self.buffers)

    def _source(self, index: int) -> Ring | Rows | None:
        step = self.steps[index]
        if step.windowed:
            padding = self.lowered[index - 1].padding if index else None
            return make_ring(step.label, step.geometry, step.x, index, padding)
        if index == 0:
            return None
        kept = [i for i, source in self.held.items() if source == index - 1]
        extents = [s.geometry.extent for i in kept for s in self.steps[index:i] if s.windowed]
        height, width, channels = step.x.shape
        return Rows(index, min(height, max([1, *extents])), width * channels)

    def pipeline(self, shares: Shares) -> Pipeline:
        last = len(self.steps) - 1
        out = self.steps[last].node.outputs[0]
        label = self.steps[last].label
        lines = []
        if self.buffers:
            at = f" + {shares.first} * {self.share_bytes}" if shares.parts > 1 else ""
            lines.append(f"int8_t *const scratch = (int8_t *)R_{label}_scratch{at};")
        offset = 0
        for name, size in self.buffers:
            lines.append(f"int8_t *const {name} = scratch{f' + {offset}' if offset else ''};")
            offset += -(-size // _ALIGN) * _ALIGN
        rings = [s for s in self.sources if isinstance(s, Ring)]
        parts: list[Ring | Lowered] = [*rings, *self.lowered]
        lines += [line for r in rings if (line := r.prepare())]
        lines += [f"const int32_t last = {shares.end};", f"int32_t y = {shares.begin};"]
        first = "y"
        for ring in reversed(rings):
            # The next input row to bring into the ring.
            lines.append(f"int32_t next{ring.level} = {ring.first_row(first)};")
            first = f"next{ring.level}"
        lines.append("for (; y < last; ++y) {")
        lines += [f"  {line}" for line in self._row(last, "y", self.context.row(out, "y", const=False))]
        lines.append("}")
        scratch = Region(f"{label}_scratch", shares.parts * self.share_bytes, _ALIGN)
        return Pipeline(
            "\n".join(lines),
            (*((self.door.kernel,) if self.door else ()), *(k for part in parts for k in part.kernels)),
            (*(self.door.constants if self.door else ()), *(c for part in parts for c in part.constants)),
            (scratch,) if self.buffers else (),
        )

    def _row(self, index: int, row: str, to: str) -> list[str]:
        """C that computes row ``row`` of a step at ``to``, rows of the steps before it included."""
        lowered, step = self.lowered[index], self.steps[index]
        width, channels = step.y.shape[1:]
        source = self.sources[index]
        if isinstance(source, Ring):
            number = f"next{index}"
            produce = self._produce(index, number, source.row(number))
            consume = self._window(lowered, index, row, to)
            lines = source.code(row, "\n".join(produce), "\n".join(consume)).rstrip("\n").split("\n")
        else:
            x = self.context.row(step.node.inputs[0], row)
            lines = []
            if source is not None:
                lines = self._produce(index, row, source.row(row))
                x = source.row(row)
            lines += self._products(lowered, index, x, step.x.shape[2], row, to)
        return lines + lowered.look_up(to, str(width * channels), "0", 1)

    def _produce(self, index: int, row: str, to: str) -> list[str]:
        """Row ``row`` of what step ``index`` reads."""
        if index:
            return self._row(index - 1, row, to)
        x = self.steps[0].x
        count = x.shape[1] * x.shape[2]
        given, turned = [f"memcpy({to}, {self.context.row(x.name, row)}, {count});"], []
        if self.door is not None and self.door_node is not None:
            region = self.context.regions[self.door_node.inputs[0]]
            given = [self.door.call(f"R_{region}", f"{row} * {count}", to, str(count))]
            turned = [self.door.call(f"(uint8_t *)({to})", "0", to, str(count))]
        if not pulls(self.context, self.steps, self.door_node):
            return given
        return [
            "if (state->camera != 0) {",
            f"  state->camera_row(state->camera, {row}, {to});",
            *(f"  {line}" for line in turned),
            "} else {",
            *(f"  {line}" for line in given),
            "}",
        ]

    def _window(self, lowered: Lowered, index: int, row: str, to: str) -> list[str]:
        step = lowered.step
        width, channels = step.y.shape[1:]
        if isinstance(lowered.kernel, Depthwise):
            n = str(channels)
            return lowered.kernel.code(f"window{index}", to, n, n, n).split("\n")
        gather = lowered.gather
        assert gather is not None
        call = f"{gather.kernel.name}(window{index}, columns{index}, {width});"
        return [call, *self._products(lowered, index, f"columns{index}", gather.step, row, to)]

    def _products(self, lowered: Lowered, index: int, x: str, x_step: int, row: str, to: str) -> list[str]:
        """The matrix product of a row whose operands are at ``x``."""
        kernel = lowered.kernel
        assert isinstance(kernel, Pointwise)
        width, channels = lowered.step.y.shape[1:]
        sums = f"(int32_t *)(void *)sums{index}" if kernel.lifted else ""
        return [
            *lowered.pixel_sums(x, x_step, sums, width),
            *kernel.row(x, x_step, to, channels, width, self._residual(index, row), sums),
        ]

    def _residual(self, index: int, row: str) -> str:
        name = self.steps[index].residual
        if name is None:
            return ""
        held = self.held[index]
        if held is None:
            return self.context.row(name, row)
        source = self.sources[held + 1]
        assert source is not None
        return source.row(row)
