"""Cuts a network into the stages that are tuned, and makes the one-stage networks that are measured."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options, Schedule, Stage
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.passes import run_passes
from mnv3c.paths import registry
from mnv3c.reference import integer
from mnv3c.schedules import Op, Value
from mnv3c.tuning.devices.base import Candidate

# Choices that are made over the whole network; they are in an operator's shape, not in its schedule.
NETWORK_KNOBS = ("block", "block_in", "block_out", "project", "next")
_NAME = "mnv3c_candidate"


@dataclass(frozen=True)
class Layer:
    """A stage of a lowered network that can be tuned.

    Attributes:
        nodes: names of the fused graph's nodes that the stage computes, in order.
        owners: prefix of an operator's knobs to the node that has them, without it.
        choices: node to those of ``NETWORK_KNOBS`` that made this stage.
        needs, gives: tensors that the stage reads and writes as maps, each with its block shape.
    """

    op: Op
    nodes: tuple[str, ...]
    owners: Mapping[str, str]
    choices: Mapping[str, Schedule]
    needs: tuple[tuple[str, str], ...]
    gives: tuple[tuple[str, str], ...]

    def by_node(self, schedule: Schedule) -> dict[str, dict[str, Value]]:
        """A schedule of the operator as the path asks for it, with this layer's choices."""
        found: dict[str, dict[str, Value]] = {n: dict(c) for n, c in self.choices.items()}
        for knob, value in schedule.items():
            prefix, name = _split(knob)
            found.setdefault(self.owners[prefix], {})[name] = value
        return found

    def flat(self, by_node: Mapping[str, Schedule]) -> dict[str, Value]:
        """The inverse of ``by_node``, without the network's choices."""
        found: dict[str, Value] = {}
        for prefix, node in self.owners.items():
            knobs = by_node.get(node, {})
            found |= {f"{prefix}{k}": v for k, v in knobs.items() if k not in NETWORK_KNOBS}
        return found


def _split(knob: str) -> tuple[str, str]:
    """Prefix (with its dot) and name."""
    prefix, dot, name = knob.rpartition(".")
    return prefix + dot, name


def layers(
    graph: Graph, path: str, tuning: str, choices: Mapping[str, Schedule] | None = None
) -> list[Layer]:
    """The tunable stages of a network on a path.

    Args:
        graph: integer graph, of primitive or fused operators.
        tuning: a core's name.
        choices: node to values of ``NETWORK_KNOBS``; others by the path's rules.
    """
    fused = run_passes(graph)
    program = registry.load(path).lower(fused, Options(tuning=tuning, schedules=choices or {}))
    return [layer for s in program.stages if (layer := layer_of(fused, s, path)) is not None]


def layer_of(fused: Graph, stage: Stage, path: str) -> Layer | None:
    """The layer that a stage computes; ``None`` for one without knobs."""
    nodes = [n for n in fused.nodes if n.name in stage.nodes]
    members = [(n, c) for n in nodes if (c := _conv(n)) is not None]
    if not stage.schedule:
        return None
    if any(c.depthwise for _, c in members):
        links = _links(members)
        return _blocks(fused, stage, path, links) if links else None
    if len(members) == 1:
        return _convolution(fused, stage, path, *members[0])
    if len(nodes) == 1 and isinstance(nodes[0], q.QGate):
        return _gate(fused, stage, path, nodes[0])
    return None


def _conv(node: Node) -> q.QConv | None:
    if isinstance(node, q.FusedConv):
        return node.conv
    return node if isinstance(node, q.QConv) else None


def _epilogue(node: Node | None) -> str:
    """What follows a convolution, as far as kernels differ."""
    if not isinstance(node, q.FusedConv):
        return "none"
    if node.residual is not None:
        return "add"
    names = {q.QHardSwish: "hswish", q.QHardSigmoid: "hsigmoid", q.QLut: "table", type(None): "none"}
    return names[type(node.activation)]


def _size(pair: Sequence[int]) -> str:
    return "x".join(str(n) for n in pair)


def _chosen(stage: Stage, node: Node) -> dict[str, Value]:
    return {k: v for k, v in stage.schedule.get(node.name, {}).items() if k in NETWORK_KNOBS}


@dataclass
class _Link:
    """A depthwise convolution and what is computed together with it; see ``paths/dotprod/links.py``."""

    middle: Node
    stem: Node | None
    expand: Node | None
    project: Node | None = None

    @property
    def nodes(self) -> list[Node]:
        every = (self.stem, self.expand, self.middle, self.project)
        return [n for n in every if n is not None]

    def owners(self, prefix: str) -> dict[str, str]:
        roles = {"": self.middle, "stem.": self.stem, "expand.": self.expand, "project.": self.project}
        return {f"{prefix}{role}": n.name for role, n in roles.items() if n is not None}


def _links(members: Sequence[tuple[Node, q.QConv]]) -> list[_Link]:
    """The convolutions of a stage as links; none where they are something else."""
    found: list[_Link] = []
    stem: Node | None = None
    expand: Node | None = None
    for node, conv in members:
        last = found[-1] if found else None
        if conv.depthwise:
            found.append(_Link(node, stem, expand))
            stem = expand = None
        elif last and last.project is None and node.inputs[0] == last.middle.outputs[0]:
            last.project = node
        elif conv.pointwise and expand is None:
            expand = node
        elif stem is None and expand is None:
            stem = node
        else:
            return []
    return found if stem is None and expand is None else []


def _blocks(fused: Graph, stage: Stage, path: str, links: Sequence[_Link]) -> Layer:
    """A block, or several that are one stage: a chain, whose names have the number of the block before."""
    chain = len(links) > 1
    shape: list[tuple[str, Value]] = []
    owners: dict[str, str] = {}
    choices: dict[str, Schedule] = {}
    inside = {o for link in links for n in link.nodes for o in n.outputs}
    needs: list[tuple[str, str]] = []
    block_out = ""
    for i, link in enumerate(links):
        prefix = f"{i}." if chain else ""
        owners |= link.owners(prefix)
        chosen = _chosen(stage, link.middle)
        chosen["project"] = "inside" if link.project is not None else "apart"
        choices[link.middle.name] = chosen
        if link.stem is not None:
            choices[link.stem.name] = _chosen(stage, link.stem)
        shape += [(f"{prefix}{k}", v) for k, v in _link_shape(fused, link, chosen)]
        block_in, block_out = str(chosen.get("block_in", "")), str(chosen.get("block_out", ""))
        if link.stem is None:
            needs.append(((link.expand or link.middle).inputs[0], block_in))
        if link.project is not None and len(link.project.inputs) > 1:
            needs.append((link.project.inputs[1], block_out))
    last = links[-1]
    return Layer(
        Op("chain" if chain else "block", path, tuple(shape)),
        stage.nodes,
        owners,
        choices,
        tuple(n for n in needs if n[0] not in inside),
        (((last.project or last.middle).outputs[0], block_out),),
    )


def _link_shape(fused: Graph, link: _Link, chosen: Schedule) -> list[tuple[str, Value]]:
    conv = _conv(link.middle)
    assert conv is not None
    inner = fused.tensor(link.middle.inputs[0])
    sums = isinstance(link.middle, q.FusedConv) and link.middle.channel_sum is not None
    stem = _conv(link.stem) if link.stem is not None else None
    image: list[tuple[str, Value]] = []
    if stem is not None:
        image = [
            ("image", stem.weight.shape[3]),
            ("window", _size(stem.kernel)),
            ("step", _size(stem.stride)),
        ]
    return [
        *image,
        ("height", inner.shape[0]),
        ("width", inner.shape[1]),
        ("in", fused.tensor(link.expand.inputs[0]).shape[2] if link.expand else 0),
        ("channels", inner.shape[2]),
        ("out", fused.tensor(link.project.outputs[0]).shape[2] if link.project else 0),
        ("kernel", _size(conv.kernel)),
        ("stride", _size(conv.stride)),
        ("dilation", _size(conv.dilation)),
        ("pad", _size(conv.pad)),
        ("then", ",".join(_epilogue(n) for n in link.nodes)),
        ("sum", int(sums)),
        ("block_in", str(chosen.get("block_in", ""))),
        ("block_out", str(chosen.get("block_out", ""))),
    ]


def _convolution(fused: Graph, stage: Stage, path: str, node: Node, conv: q.QConv) -> Layer | None:
    x, y = fused.tensor(node.inputs[0]), fused.tensor(node.outputs[0])
    chosen = _chosen(stage, node)
    ends: list[tuple[str, Value]] = [("in", x.shape[2]), ("out", y.shape[2]), ("then", _epilogue(node))]
    if x.shape[:2] == (1, 1):
        return _single(Op("vector", path, tuple(ends)), stage, node, chosen)
    image: list[tuple[str, Value]] = [("height", y.shape[0]), ("width", y.shape[1]), *ends]
    sums = isinstance(node, q.FusedConv) and node.channel_sum is not None
    if path != "neon":  # a map that is stored too has its sums made from that
        sums = sums and not fused.consumers(y.name) and y.name not in fused.outputs
    if conv.pointwise:
        block = str(chosen.get("block", ""))
        image += [("sum", int(sums)), ("block", block)]
        needs = tuple((name, block) for name in node.inputs)
        gives = () if sums else ((node.outputs[0], block),)
        return _single(Op("pointwise", path, tuple(image)), stage, node, chosen, needs, gives)
    image += [("kernel", _size(conv.kernel)), ("stride", _size(conv.stride)), ("pad", _size(conv.pad))]
    # The paths with blocks make rows of 4 pixels of a convolution's result.
    gives = ((node.outputs[0], "1x4"),) if path in ("dotprod", "i8mm") else ((node.outputs[0], ""),)
    return _single(Op("convolution", path, tuple(image)), stage, node, chosen, (), gives)


def _gate(fused: Graph, stage: Stage, path: str, node: q.QGate) -> Layer:
    x = fused.tensor(node.inputs[0])
    chosen = _chosen(stage, node)
    block = str(chosen.get("block", ""))
    shape: list[tuple[str, Value]] = [("height", x.shape[0]), ("width", x.shape[1]), ("channels", x.shape[2])]
    op = Op("gate", path, (*shape, ("block", block)))
    return _single(op, stage, node, chosen, ((x.name, block),), ((node.output, block),))


def _single(
    op: Op,
    stage: Stage,
    node: Node,
    chosen: Schedule,
    needs: tuple[tuple[str, str], ...] = (),
    gives: tuple[tuple[str, str], ...] = (),
) -> Layer:
    """The layer of a stage with knobs of one node."""
    return Layer(op, stage.nodes, {"": node.name}, {node.name: chosen}, needs, gives)


@dataclass(frozen=True, eq=False)
class Task:
    """An operator to be tuned, with a network of its stage alone.

    Attributes:
        layer: the first layer of the network that is this operator.
        graph: primitive operators; what it reads and writes are its inputs and outputs.
        inputs, expected: one run of it, by the reference.
    """

    layer: Layer
    graph: Graph
    tuning: str
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]

    @property
    def op(self) -> Op:
        return self.layer.op

    @property
    def _behind(self) -> set[str]:
        """Nodes that read the layer's channel sums."""
        sums = {n.output for n in self.graph.nodes if isinstance(n, q.ChannelSum)}
        return {n.name for n in self.graph.nodes if sums.intersection(n.inputs)}

    @property
    def converted(self) -> tuple[set[str], set[str]]:
        """Inputs and outputs of ``graph`` that a run brings into another form, before and behind the layer.

        Dense maps stay as they are, but for inputs that are copied into the library's own memory.
        """
        needs, gives = (
            {name for name, form in ends if form} for ends in (self.layer.needs, self.layer.gives)
        )
        flips = (n for n in self.graph.nodes if isinstance(n, q.FlipSign) and n.name not in self.layer.nodes)
        return needs | {n.inputs[0] for n in flips}, gives

    def candidate(self, schedule: Schedule) -> tuple[Candidate, Schedule]:
        """The one-stage network compiled with that schedule, and the value that every knob then has.

        The candidate's key is a digest of its code: equal keys cost the same.
        """
        options = Options(tuning=self.tuning, schedules=self.layer.by_node(schedule))
        library = build_library(self.graph, (self.op.path,), options=options)
        entries = library.manifest["programs"][self.op.path]["layers"]  # type: ignore[index]
        wanted = set(self.layer.nodes)
        alike = [e for e in entries if set(e["nodes"]) == wanted]
        # Bringing a tensor into another form has the same nodes, but no knobs.
        own = [e for e in alike if e["schedule"]] or alike
        # A pool's sums are rounded in a stage of its own, which counts too.
        behind = self._behind - wanted
        found = [e["index"] for e in entries if e in own or (e["nodes"] and set(e["nodes"]) <= behind)]
        code = "".join(str(c) for n, c in sorted(library.files.items()) if n.endswith(f"_{self.op.path}.c"))
        key = hashlib.sha256(code.encode()).hexdigest()[:16]
        candidate = Candidate.of(key, library, self.inputs, self.expected, found)
        return candidate, self.layer.flat(own[0]["schedule"])


def task(graph: Graph, layer: Layer, tuning: str, seed: int = 0) -> Task:
    """Cut ``layer`` out of ``graph`` (primitive operators) and run it once on random inputs."""
    small = subgraph(graph, layer)
    if layer.op.path == "neon":
        small = _with_inputs_inside(small, set(graph.inputs))
    rng = np.random.default_rng(seed)
    inputs = {name: _random(small, name, rng) for name in small.inputs}
    outputs = integer.run(small, inputs)
    return Task(
        layer,
        small,
        tuning,
        tuple(inputs[n] for n in small.inputs),
        tuple(outputs[n] for n in small.outputs),
    )


def subgraph(graph: Graph, layer: Layer) -> Graph:
    """The primitive operators of a layer as a graph of its own.

    The sums of a pool stay inside, with the operator that reads them: they never leave a library.
    """
    inside = set()
    for node in run_passes(graph).nodes:
        if node.name in layer.nodes:
            inside |= {p.name for p in node.parts} if isinstance(node, q.FusedConv) else {node.name}
    sums = {n.output for n in graph.nodes if n.name in inside and isinstance(n, q.ChannelSum)}
    inside |= {n.name for n in graph.nodes if sums.intersection(n.inputs)}
    nodes = tuple(n for n in graph.nodes if n.name in inside)
    made = {o for n in nodes for o in n.outputs}
    read = list(dict.fromkeys(i for n in nodes for i in n.inputs if i not in made))
    outside = {i for n in graph.nodes if n.name not in inside for i in n.inputs} | set(graph.outputs)
    written = [o for n in nodes for o in n.outputs if o in outside]
    return graph.replace(name=_NAME, nodes=nodes, inputs=tuple(read), outputs=tuple(written), meta={})


def _with_inputs_inside(graph: Graph, images: set[str]) -> Graph:
    """With a copy of each input but ``images`` in the library's own memory, as another layer's result is.

    The ``neon`` path's kernels read some bytes behind a tensor, which only its own memory has.
    """
    before: dict[str, Tensor] = {}
    for name in graph.inputs:
        t = graph.tensor(name)
        if name not in images and t.dtype == "int8":
            before[name] = replace(t, name=f"{name}_outside", dtype="uint8")
    copies = tuple(q.FlipSign(f"{t.name}_copy", (t.name,), (name,)) for name, t in before.items())
    return graph.replace(
        nodes=(*copies, *graph.nodes),
        inputs=tuple(before[i].name if i in before else i for i in graph.inputs),
        tensors={**graph.tensors, **{t.name: t for t in before.values()}},
    )


def _random(graph: Graph, name: str, rng: np.random.Generator) -> np.ndarray:
    tensor = graph.tensor(name)
    if tensor.dtype == "float32":
        return rng.normal(size=tensor.shape).astype(np.float32)
    bounds = np.iinfo(tensor.dtype)
    # A 16-bit input is the gate of an SE layer, which is not negative.
    low = 0 if tensor.dtype == "int16" else bounds.min
    return rng.integers(low, bounds.max + 1, tensor.shape).astype(tensor.dtype)


@functools.lru_cache(maxsize=16)
def _choices(blocks: tuple[str, str], project: str, following: str) -> Schedule:
    return {
        "block": blocks[1],
        "block_in": blocks[0],
        "block_out": blocks[1],
        "project": project,
        "next": following,
    }


def variants(graph: Graph, path: str, tuning: str) -> list[Layer]:
    """Every layer that some choice of block shapes and fusion gives; the path's own choices first."""
    found = layers(graph, path, tuning)
    names = ("2x2", "1x4")
    fused = run_passes(graph)
    for blocks in ((i, o) for o in names for i in names):
        for project, following in itertools.product(("inside", "apart"), repeat=2):
            if blocks[0] != blocks[1] and following == "inside":
                continue  # blocks of one stage share their tensors' block shape
            choices = {n.name: _choices(blocks, project, following) for n in fused.nodes}
            found += layers(graph, path, tuning, choices)
    unique: dict[tuple[tuple[str, ...], Op], Layer] = {}
    for layer in found:
        unique.setdefault((layer.nodes, layer.op), layer)
    return list(unique.values())


__all__ = ["Layer", "Task", "layer_of", "layers", "subgraph", "task", "variants"]
