"""Collects the stages of a program and brings every tensor into the form that a stage wants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Program, Region, Schedule, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.knobs import K, Knob
from mnv3c.paths.common.notes import portable_notes
from mnv3c.paths.common.regions import external, region_names
from mnv3c.paths.dotprod.layout import BLOCKS, TILE, quads, tiled_bytes
from mnv3c.paths.dotprod.pointwise import PointwiseKernel
from mnv3c.paths.dotprod.windows import Block
from mnv3c.paths.ref.stages import lower_node
from mnv3c.schedules import table_of


@dataclass(frozen=True)
class Octets:
    """Tiled, but the tiles of every two channel quads are two operands of a matrix product.

    An operand is 2 pixels by 8 channels, pixels (0, 2) or (1, 3) of the block.
    """

    block: Block


# Dense, tiled with blocks of that shape, or tiled as matrix operands.
Form = Block | Octets | None
DENSE: Form = None


@dataclass(frozen=True)
class Instructions:
    """What differs between paths that share this layout.

    Attributes:
        path: its name.
        gcc_target, clang_target: the instruction set, for the compilers' pragmas.
        pointwise: makes the kernel of a 1x1 convolution; see ``pointwise.pointwise_kernel``.
        octets: kernel and number of its turns that make so many pairs of tiles into matrix operands, or back;
            ``None`` if the path's 1x1 convolutions read tiles.
    """

    path: str
    gcc_target: str
    clang_target: str
    pointwise: Callable[..., PointwiseKernel]
    octets: Callable[[int], tuple[Kernel, int]] | None = None


def template_kernel(name: str) -> Kernel:
    """The kernel of ``templates/kernels/dotprod/<name>.c.j2``, which has no variants."""
    return Kernel(f"{name}_dotprod", render(f"kernels/dotprod/{name}.c.j2"))


class Builder:
    """The program under construction."""

    def __init__(
        self,
        graph: Graph,
        instructions: Instructions,
        schedules: Mapping[str, Schedule] | None = None,
        memory: str = "fast",
        camera: bool = False,
    ) -> None:
        self.graph = graph
        self.camera = camera
        self.small = memory == "small"
        # Shares of stages in which each needs windows of its own, or must not overwrite another one's input.
        self.window_shares = table_of("pointwise").default_workers(own_memory=True, small=self.small)
        self.instructions = instructions
        self.pointwise = instructions.pointwise
        self._names = region_names(graph)
        self._regions: dict[str, Region] = {}
        self._forms: dict[tuple[str, Form], str] = {}
        self._taken = set(self._names.values())
        self._stages: list[Stage] = []
        self._notes: list[str] = []
        self._schedules = schedules or {}
        self._used: dict[str, dict[str, int | str]] = {}
        for tensor in graph.inputs:
            self._forms[tensor, DENSE] = self._region(tensor, DENSE)

    def _region(self, tensor: str, form: Form) -> str:
        t = self.graph.tensor(tensor)
        if form is None:
            name, outside = self._names[tensor], external(self.graph, tensor)
            size = t.bytes if outside else -(-t.bytes // 16) * 16
        else:
            block, kind = (form.block, "_octets") if isinstance(form, Octets) else (form, "")
            name, outside = self._unique(f"{self._names[tensor]}_{block[0]}x{block[1]}{kind}"), None
            size = tiled_bytes(t.shape, block) + TILE  # kernels may load one tile ahead
        self._regions[name] = Region(name, size, external=outside)
        return name

    def _unique(self, name: str) -> str:
        """A region's name that no tensor and no other region has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def scratch(self, name: str, size: int, align: int = 16) -> Region:
        """Memory for one stage."""
        return Region(self._unique(name), size, align=align)

    def shared(self, name: str, size: int) -> str:
        """A region that lives across stages and is no tensor."""
        region = self.scratch(name, size, align=64)
        self._regions[region.name] = region
        return region.name

    def provide(self, tensor: str, form: Form) -> str:
        """The region that the stage about to be added writes ``tensor`` to."""
        region = self._region(tensor, form)
        self._forms[tensor, form] = region
        return region

    def known(self, tensor: str) -> bool:
        """Whether ``tensor`` has been computed in any form."""
        return any(t == tensor for t, _ in self._forms)

    def has(self, tensor: str, form: Form) -> bool:
        """Whether ``tensor`` has been computed in that form."""
        return (tensor, form) in self._forms

    def tiled(self, tensor: str) -> bool:
        """Whether ``tensor`` has been computed in tiles of any form."""
        return any(t == tensor and form is not DENSE for t, form in self._forms)

    def need(self, tensor: str, form: Form) -> str:
        """The region that holds ``tensor`` in that form; adds a conversion where there is none yet."""
        if (tensor, form) in self._forms:
            return self._forms[tensor, form]
        if isinstance(form, Octets):
            return self._regroup(tensor, self.need(tensor, form.block), form, form.block)
        octets = next((f for t, f in self._forms if t == tensor and isinstance(f, Octets)), None)
        if octets is not None and form in (DENSE, octets.block):
            tiles = self._regroup(tensor, self._forms[tensor, octets], octets.block, octets.block)
            if form is not DENSE:
                return tiles
        if form is not DENSE and (tensor, DENSE) not in self._forms:
            self.need(tensor, DENSE)
        tiled = next((f for t, f in self._forms if t == tensor and isinstance(f, tuple)), None)
        source = self._forms[tensor, DENSE if form is not DENSE else tiled]
        target = self.provide(tensor, form)
        block = form or tiled
        assert block is not None
        t = self.graph.tensor(tensor)
        kernel = "tiles_from_dense" if form is not DENSE else "dense_from_tiles"
        height, width, channels = t.shape
        self.add_plain(
            Stage(
                name=f"{kernel}_{target}",
                title=f"{kernel.replace('_', ' ')}, {shape_text(t)}",
                nodes=(self._owner(tensor),),
                reads=(source,),
                writes=(target,),
                body=f"{kernel}_dotprod((const int8_t *)R_{source}, (int8_t *)R_{target},"
                f" {height}, {width}, {channels}, {block[0]}, {block[1]});",
                kernels=(template_kernel(kernel),),
            )
        )
        return target

    def _regroup(self, tensor: str, source: str, form: Form, block: Block) -> str:
        """A stage from tiles to matrix operands or back."""
        assert self.instructions.octets is not None
        target = self.provide(tensor, form)
        t = self.graph.tensor(tensor)
        kernel, turns = self.instructions.octets(tiled_bytes(t.shape, block) // 32)
        self.add_plain(
            Stage(
                name=f"octets_{target}",
                title=f"{'matrix operands' if isinstance(form, Octets) else 'tiles'}, {shape_text(t)}",
                nodes=(self._owner(tensor),),
                reads=(source,),
                writes=(target,),
                body=f"{kernel.name}((const int8_t *)R_{source}, (int8_t *)R_{target}, {turns});",
                in_place=((source, target),),
                kernels=(kernel,),
            )
        )
        return target

    def matrix_form(self, tensor: Tensor, block: Block) -> Form:
        """The form in which this path's 1x1 convolutions read, write and add a tensor."""
        paired = self.instructions.octets is not None and quads(tensor.shape[2]) % 2 == 0
        return Octets(block) if paired else block

    def result_form(self, tensor: Tensor, block: Block) -> Form:
        """The form in which a 1x1 convolution or a gate should store a tensor."""
        readers = (r.conv if isinstance(r, q.FusedConv) else r for r in self.graph.consumers(tensor.name))
        depthwise = any(isinstance(r, q.QConv) and r.depthwise for r in readers)
        return block if depthwise else self.matrix_form(tensor, block)

    def residual_form(self, name: str, block: Block, result: Form) -> Form:
        """The form in which a 1x1 convolution should read its residual operand."""
        form = self.matrix_form(self.graph.tensor(name), block)
        return form if (name, form) in self._forms and form == result else block

    def _owner(self, tensor: str) -> str:
        """A node to which a conversion of ``tensor`` belongs: its producer, else its first reader."""
        producer = self.graph.producer(tensor)
        return (producer or self.graph.consumers(tensor)[0]).name

    def knob(self, node: str, name: str, default: K, note: bool = True) -> K:
        """The value that the schedule of ``node`` gives a knob, else ``default``; noted in the stage."""
        value = self._schedules.get(node, {}).get(name, default)
        if note:
            self._used.setdefault(node, {})[name] = value
        return value  # type: ignore[return-value]

    def workers(self, node: str, own_memory: bool = False) -> int:
        """The knob ``workers`` of ``node``: the most shares of its stage.

        Args:
            own_memory: whether a share needs windows of its own, or an input that no other one overwrites.
        """
        own = self.window_shares if own_memory else table_of("pointwise").default_workers()
        return self.knob(node, "workers", own)

    def settle(self, node: str, name: str, value: int | str) -> None:
        """Note the value that a knob really has, where the one asked for cannot be."""
        self._used.setdefault(node, {})[name] = value

    def knobs(self, node: str, note: bool = True) -> Knob:
        """``knob`` of one node."""
        return functools.partial(self.knob, node, note=note)

    def block(self, node: str, name: str, shape: Shape) -> Block:
        """The block shape that the knob ``name`` of ``node`` says, else the best one for ``shape``."""
        return BLOCKS[self.knob(node, name, table_of("network").default_block(*shape[:2]))]

    def add(self, stage: Stage) -> None:
        used = {n: dict(self._used[n]) for n in stage.nodes if n in self._used}
        self._stages.append(replace(stage, schedule=used))

    def add_plain(self, stage: Stage) -> None:
        """Add a stage that has no schedule: it brings a tensor into another form, or adds up sums."""
        self._stages.append(stage)

    def mentions(self, word: str) -> bool:
        """Whether a kernel so far has ``word`` in its source."""
        return any(word in kernel.source for stage in self._stages for kernel in stage.kernels)

    def note(self, text: str) -> None:
        self._notes.append(text)

    def fall_back(self, node: Node, reason: str = "") -> None:
        """Compute ``node`` with the portable kernels of the ``ref`` path."""
        names = dict(self._names)
        for tensor in node.inputs:
            names[tensor] = self.need(tensor, DENSE)
        for tensor in node.outputs:
            names[tensor] = self.provide(tensor, DENSE)
        stages = lower_node(self.graph, node, names)
        for stage in stages:
            self.add(stage)
        for note in portable_notes(node, stages[0], reason):
            self.note(note)

    def program(self, **fields: object) -> Program:
        """Finish: outputs in the caller's form."""
        for tensor in self.graph.outputs:
            self.need(tensor, DENSE)
        return Program(
            path=self.instructions.path,
            stages=tuple(self._stages),
            regions=tuple(self._regions.values()),
            notes=tuple(self._notes),
            **fields,  # type: ignore[arg-type]
        )


def constants(label: str, arrays: Mapping[str, tuple[np.ndarray, str]]) -> tuple[Constant, ...]:
    """Constants named ``<key>_<label>``."""
    return tuple(Constant(f"{key}_{label}", data, role) for key, (data, role) in arrays.items())


def unique(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    return tuple({k.name: k for k in kernels}.values())


__all__ = ["DENSE", "Builder", "Form", "constants", "identifier", "template_kernel", "unique"]
