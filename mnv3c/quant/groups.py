"""Groups of float nodes that become one convolution, gate or add with a single rounding to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnv3c.ir import float_ops as f
from mnv3c.ir.broadcast import repeats
from mnv3c.ir.graph import Graph, Node

Sharing = Literal["channel", "dense", "tensor"]


@dataclass(frozen=True)
class Group:
    """Float nodes that are lowered together, in execution order.

    Attributes:
        nodes: a first node and what is fused behind it: ``(conv)``, ``(conv, activation)``,
            ``(conv, add)``, ``(conv, add, clip)``, ``(add, clip)``, ``(multiply, clip)``, or any node.
    """

    nodes: tuple[Node, ...]

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> str:
        return self.nodes[-1].output

    @property
    def activation(self) -> f.Activation | None:
        last = self.nodes[-1]
        return last if isinstance(last, f.Activation) else None

    @property
    def add(self) -> f.Add | None:
        """The residual add behind a convolution."""
        return next((n for n in self.nodes[1:] if isinstance(n, f.Add)), None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors from outside, without duplicates."""
        inner = {n.output for n in self.nodes}
        return tuple(dict.fromkeys(i for n in self.nodes for i in n.inputs if i not in inner))


def is_gate(graph: Graph, tensor: str) -> bool:
    """Whether every consumer multiplies a feature map by ``tensor``: a value a channel, or a map.

    A map counts if it is a sigmoid behind a convolution, or an interpolation of one: it then stays in 16
    bits up to the product.
    """
    users = graph.consumers(tensor)
    if not users or tensor in graph.outputs:
        return False
    if graph.tensor(tensor).shape[:2] != (1, 1) and gate_source(graph, tensor) is None:
        return False
    return all(
        (isinstance(u, f.Multiply) and u.inputs[0] != tensor)
        or (isinstance(u, f.Resize) and gate_source(graph, tensor) is not None and is_gate(graph, u.output))
        for u in users
    )


def gate_source(graph: Graph, tensor: str) -> f.Activation | None:
    """The sigmoid of a convolution that ``tensor`` is, or interpolates; ``None`` if it is none."""
    node = graph.producer(tensor)
    if isinstance(node, f.Resize):
        return gate_source(graph, node.inputs[0])
    if not isinstance(node, f.Activation) or not _is_sigmoid(node):
        return None
    conv = graph.producer(node.inputs[0])
    fused = isinstance(conv, f.Conv2d) and graph.sole_consumer(conv.output, f.Activation) is node
    return node if fused else None


def _is_sigmoid(node: f.Activation) -> bool:
    """Whether the integer IR has it as a gate in Q15."""
    hard = node.kind == "hard_sigmoid" and node.slope > 0 and abs(node.offset) < 1
    return hard or node.kind == "sigmoid"


def group(graph: Graph, wide: frozenset[str] = frozenset()) -> tuple[Group, ...]:
    """Partition the nodes of a float graph, in an order in which the groups can be executed.

    Args:
        wide: tensors that are stored in 16 bits; nothing is fused with what writes them.
    """
    projections = {conv: add for conv, add in _projections(graph).items() if add.output not in wide}
    position = {n.name: i for i, n in enumerate(graph.nodes)}
    taken: set[str] = set()
    groups: list[tuple[int, Group]] = []
    # Convolutions first: an add or an activation heads a group only where no convolution claims it.
    for node in sorted(graph.nodes, key=lambda n: not isinstance(n, f.Conv2d)):
        if node.name in taken:
            continue
        members = _members(graph, node, projections)
        taken |= {n.name for n in members}
        groups.append((position[members[-1].name], Group(members)))
    return tuple(g for _, g in sorted(groups, key=lambda item: item[0]))


def _projections(graph: Graph) -> dict[str, f.Add]:
    """Convolution to the add that it is rounded in. Of two that meet, the later one: the projection."""
    owner: dict[str, str] = {}
    adds: dict[str, f.Add] = {}
    for node in graph.nodes:
        add = graph.sole_consumer(node.output, f.Add) if isinstance(node, f.Conv2d) else None
        if add is not None and not repeats(graph, add):
            owner[add.name] = node.name
            adds[add.name] = add
    return {conv: adds[add] for add, conv in owner.items()}


def _members(graph: Graph, node: Node, projections: dict[str, f.Add]) -> tuple[Node, ...]:
    if isinstance(node, f.Conv2d):
        if node.name in projections:
            add = projections[node.name]
            return (node, add, *_clip_after(graph, add))
        activation = graph.sole_consumer(node.output, f.Activation)
        if activation is not None and _fuses(graph, activation):
            return (node, activation)
        return (node,)
    if isinstance(node, f.Add | f.Multiply):
        return (node, *_clip_after(graph, node))
    return (node,)


def _clip_after(graph: Graph, node: Node) -> tuple[Node, ...]:
    activation = graph.sole_consumer(node.output, f.Activation)
    return (activation,) if activation is not None and activation.kind == "clip" else ()


def _fuses(graph: Graph, node: f.Activation) -> bool:
    """Whether the integer IR has this activation behind a convolution's 16-bit result."""
    if node.kind == "clip":
        return True
    if node.kind == "hard_swish":
        return node.offset == 0.5 and node.slope > 0
    return _is_sigmoid(node) and is_gate(graph, node.output)


def sharing(graph: Graph, tensor: str) -> Sharing:
    """Who reads a tensor, which decides how free its channels' scales are.

    Returns:
        ``channel``: all consumers work channel by channel (depthwise convolution, pooling, the SE
        gate), so every channel may have its own scale and zero point at no loss. ``dense``: a dense
        convolution reads it too; scales a channel are folded into that one's weights before these are
        rounded. ``tensor``: one scale only.
    """
    if tensor in graph.outputs:
        return "tensor"
    found: Sharing = "channel"
    for user in graph.consumers(tensor):
        if isinstance(user, f.Conv2d):
            alone = user.groups > 1 and user.weight.shape[3] == 1
            found = found if alone else "dense"
            continue
        pool = isinstance(user, f.GlobalAveragePool) or (isinstance(user, f.Pool) and user.kind == "average")
        gated = (
            isinstance(user, f.Multiply) and is_gate(graph, user.inputs[1]) and user.inputs.index(tensor) == 0
        )
        if not (pool or gated):
            return "tensor"
    return found


def residual_classes(graph: Graph, groups: Sequence[Group]) -> tuple[frozenset[str], ...]:
    """Tensors that residual adds tie together.

    An add has one multiplier for all channels of an int8 operand, so operand and sum may have scales of
    a channel only in one common proportion. A class is left out, so that its tensors have one scale
    each, if anything reads or writes one of them that has no scales a channel (the library's input, a
    table, a max pool, a sum that broadcasts).
    """
    heads = {each.output: each.head for each in groups}
    classes: list[set[str]] = []
    for each in groups:
        add = each.head if isinstance(each.head, f.Add) else each.add
        if add is None or repeats(graph, add):
            continue
        tied = {each.output, *(i for i in add.inputs if i in each.inputs)}
        joined = [c for c in classes if c & tied]
        classes = [c for c in classes if not c & tied] + [tied.union(*joined)]
    return tuple(frozenset(c) for c in classes if all(_proportional(graph, t, heads.get(t)) for t in c))


def _proportional(graph: Graph, tensor: str, writer: Node | None) -> bool:
    readers = f.Conv2d | f.GlobalAveragePool | f.Add
    writers = f.Conv2d | f.GlobalAveragePool | f.Add | f.Multiply
    users = graph.consumers(tensor)
    sums = [u for u in (*users, writer) if isinstance(u, f.Add)]
    if any(repeats(graph, add) for add in sums):
        return False
    read = all(isinstance(u, readers) for u in users)
    return tensor not in graph.outputs and isinstance(writer, writers) and read
