"""Latency tables: what each layer of a network costs on a core, and what other blocks in its place would."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3c import api
from mnv3c.bench import llvm
from mnv3c.codegen.program import Schedule
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.passes import run_passes
from mnv3c.targets import Target
from mnv3c.tuning import bound, space, tasks
from mnv3c.tuning.apply import Applied, apply
from mnv3c.tuning.bound import Bound
from mnv3c.tuning.devices.base import Device
from mnv3c.tuning.devices.simulated import SimulatedDevice
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.records import Records
from mnv3c.tuning.report import shape_text
from mnv3c.tuning.space import Op
from mnv3c.tuning.tasks import Layer, Task

KERNELS = (3, 5)
EXPANSIONS = (3, 4, 6)  # of the search space of MnasNet and MobileNetV3 (section 4.1 of the paper)
_BATCH = 32
_ACTIVATIONS = {"hswish": "hard_swish", "none": "clip"}


@dataclass(frozen=True)
class Entry:
    """A layer of a network.

    Attributes:
        cost: ``None`` where the device could not measure it.
        tuned: whether its schedule is one that tuning found.
        least: of the simulated core, what any schedule costs at least; ``None`` where it is not known.
    """

    layer: str
    operator: str
    shape: str
    cost: float | None
    tuned: bool
    least: Bound | None = None


@dataclass(frozen=True)
class Place:
    """Where a network has a block: what comes in, what goes out.

    Attributes:
        input: ``(height, width, channels)``.
        activation: ``hswish`` or ``none`` (a ReLU, which costs nothing).
    """

    input: Shape
    out: int
    stride: int
    activation: str


@dataclass(frozen=True)
class Block:
    """An inverted residual of a grid, and its cost: expansion, depthwise, SE and projection together."""

    place: Place
    kernel: int
    channels: int
    squeeze: bool
    cost: float | None


class Meter:
    """Measures layers with their schedules; each operator once.

    Args:
        known: records, asked in order; layers without one get their default schedule.
        tell: called with (measured, total).
    """

    def __init__(
        self,
        path: str,
        core: Target,
        device: Device,
        journal: Journal,
        known: Sequence[Records],
        family: str,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._path, self._core, self._device = path, core, device
        self._journal, self._known, self._family, self._tell = journal, known, family, tell
        self._least: dict[Op, Bound] = {}

    def network(self, graph: Graph) -> list[Entry]:
        """One entry a layer, in order."""
        applied = apply(graph, self._path, self._core, self._known, self._family)
        costs = self._costs([(graph, applied)])
        return [
            Entry(
                layer.nodes[-1],
                layer.op.operator,
                shape_text(layer.op),
                costs.get(layer.op),
                not applied.tuned.isdisjoint(layer.nodes),
                self._least.get(layer.op),
            )
            for layer in applied.layers
        ]

    def grid(self, graph: Graph, seed: int = 0) -> list[Block]:
        """Every kernel and expansion, with and without SE, in each place of a network."""
        blocks: list[Block] = []
        networks: list[tuple[Graph, Applied]] = []
        for place in places(graph):
            for kernel, factor, squeeze in itertools.product(KERNELS, EXPANSIONS, (False, True)):
                block = Block(place, kernel, place.input[2] * factor, squeeze, None)
                small = api.quantize(block_network(block, seed), _images(place, seed), seed=seed)
                blocks.append(block)
                networks.append((small, apply(small, self._path, self._core, self._known, self._family)))
        costs = self._costs(networks)
        found = []
        for block, (_, applied) in zip(blocks, networks, strict=True):
            each = [costs.get(layer.op) for layer in applied.layers]
            total = None if None in each else sum(c for c in each if c is not None)
            found.append(Block(block.place, block.kernel, block.channels, block.squeeze, total))
        return found

    def _costs(self, networks: Sequence[tuple[Graph, Applied]]) -> dict[Op, float]:
        wanted: dict[Op, tuple[Graph, Layer, Schedule]] = {}
        for graph, applied in networks:
            for layer in applied.layers:
                wanted.setdefault(layer.op, (graph, layer, self._schedule(layer)))
        costs: dict[Op, float] = {}
        ops = list(wanted)
        for start in range(0, len(ops), _BATCH):
            self._tell(start, len(ops))
            made = {op: self._task(*wanted[op][:2]) for op in ops[start : start + _BATCH]}
            some = {op: task.candidate(wanted[op][2])[0] for op, task in made.items()}
            new = {c.key: c for c in some.values() if self._journal.get(c.key) is None}
            for m in self._device.measure(list(new.values())):
                self._journal.add(m.key, m.cost if m.ok else float("inf"))
            if isinstance(self._device, SimulatedDevice) and llvm.tools() is not None:
                for op, candidate in some.items():
                    ran = self._device.simulations.get(candidate.key)
                    if ran is not None:
                        constants = bound.weights(made[op].graph)
                        self._least[op] = bound.of(self._core, ran.executed, constants)
            for op, candidate in some.items():
                cost = self._journal.get(candidate.key)
                if cost is not None and cost < float("inf"):
                    costs[op] = cost
        self._tell(len(ops), len(ops))
        return costs

    def _task(self, graph: Graph, layer: Layer) -> Task:
        return tasks.task(graph, layer, self._core.name)

    def _schedule(self, layer: Layer) -> Schedule:
        found = next((r for k in self._known if (r := k.get(layer.op, self._family)) is not None), None)
        return found.schedule if found is not None else space.default(layer.op, self._core)


def places(graph: Graph) -> list[Place]:
    """The distinct places of blocks with an expansion and a projection, in the order of the network."""
    fused = run_passes(graph)
    found: dict[Place, None] = {}
    for node in fused.nodes:
        conv = _conv(node)
        if conv is None or not conv.depthwise:
            continue
        expand = fused.producer(node.inputs[0])
        project = _projection(fused, node)
        before = _conv(expand)
        if expand is None or before is None or not before.pointwise or project is None:
            continue
        swish = isinstance(node, q.FusedConv) and isinstance(node.activation, q.QHardSwish)
        place = Place(
            fused.tensor(expand.inputs[0]).shape,
            fused.tensor(project.outputs[0]).shape[2],
            conv.stride[0],
            "hswish" if swish else "none",
        )
        found.setdefault(place)
    return list(found)


def _conv(node: Node | None) -> q.QConv | None:
    if isinstance(node, q.FusedConv):
        return node.conv
    return node if isinstance(node, q.QConv) else None


def _projection(fused: Graph, node: Node) -> Node | None:
    """The 1x1 convolution behind a depthwise one, and behind its gate if there is one."""
    tensor = node.outputs[0]
    for _ in range(2):
        readers = [n for n in fused.consumers(tensor) if n.inputs[0] == tensor]
        gate = next((n for n in readers if isinstance(n, q.QGate | q.QMultiply)), None)
        conv = next((n for n in readers if (c := _conv(n)) is not None and c.pointwise), None)
        if gate is None:
            return conv
        tensor = gate.outputs[0]
    return None


def block_network(block: Block, seed: int = 0) -> Graph:
    """A float network of one inverted residual with random weights (the paper's bneck)."""
    p, rng = block.place, np.random.default_rng(seed)
    height, width, channels = p.input
    nodes: list[Node] = []
    tensors = {"input": Tensor("input", p.input)}

    def add(node: Node, shape: Shape) -> str:
        nodes.append(node)
        tensors[node.output] = Tensor(node.output, shape)
        return node.output

    def conv(name: str, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        h, w, c = tensors[x].shape
        weight = rng.normal(
            0, (2 / (kernel * kernel * c / groups)) ** 0.5, (out, kernel, kernel, c // groups)
        )
        pad = (kernel // 2,) * 4
        bias = np.zeros(out, np.float32)
        shape = (-(-h // stride), -(-w // stride), out)
        made = f.Conv2d(name, (x,), (f"{name}_out",), weight.astype(np.float32), bias, (stride,) * 2, pad)
        return add(_grouped(made, groups), shape)

    def act(x: str) -> str:
        kind = _ACTIVATIONS[p.activation]
        bounds = {"low": 0.0} if kind == "clip" else {}
        return add(f.Activation(f"{x}_act", (x,), (f"{x}_act_out",), kind, **bounds), tensors[x].shape)

    x = act(conv("expand", "input", block.channels))
    x = act(conv("depthwise", x, block.channels, block.kernel, p.stride, block.channels))
    if block.squeeze:
        inner = max(8, -(-block.channels // 4 // 8) * 8)
        pooled = add(f.GlobalAveragePool("pool", (x,), ("pool_out",)), (1, 1, block.channels))
        gate = conv("squeeze", pooled, inner)
        gate = add(f.Activation("relu", (gate,), ("relu_out",), "clip", low=0.0), (1, 1, inner))
        gate = conv("excite", gate, block.channels)
        gate = add(f.Activation("gate", (gate,), ("gate_out",), "hard_sigmoid"), (1, 1, block.channels))
        x = add(f.Multiply("scale", (x, gate), ("scale_out",)), tensors[x].shape)
    x = conv("project", x, p.out)
    if p.stride == 1 and p.out == channels:
        x = add(f.Add("add", (x, "input"), ("add_out",)), (height, width, channels))
    return Graph("block", tuple(nodes), tensors, ("input",), (x,))


def _grouped(conv: f.Conv2d, groups: int) -> f.Conv2d:
    return f.Conv2d(
        conv.name, conv.inputs, conv.outputs, conv.weight, conv.bias, conv.stride, conv.pad, groups=groups
    )


def _images(place: Place, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=place.input).astype(np.float32) for _ in range(2)]


def network_csv(entries: Sequence[Entry], unit: str) -> str:
    """One line a layer."""
    rows: list[Mapping[str, Any]] = [
        {
            "layer": e.layer,
            "operator": e.operator,
            "shape": e.shape,
            "cost": e.cost,
            "unit": unit,
            "tuned": int(e.tuned),
            "least": round(e.least.cycles) if e.least is not None else None,
        }
        for e in entries
    ]
    return _csv(rows)


def grid_rows(blocks: Sequence[Block], unit: str) -> list[Mapping[str, Any]]:
    """One mapping a block, ready for CSV and JSON."""
    return [
        {
            "height": b.place.input[0],
            "width": b.place.input[1],
            "in": b.place.input[2],
            "channels": b.channels,
            "out": b.place.out,
            "kernel": b.kernel,
            "stride": b.place.stride,
            "squeeze": int(b.squeeze),
            "activation": b.place.activation,
            "cost": b.cost,
            "unit": unit,
        }
        for b in blocks
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def grid_csv(blocks: Sequence[Block], unit: str) -> str:
    """One line a block."""
    return _csv(grid_rows(blocks, unit))
