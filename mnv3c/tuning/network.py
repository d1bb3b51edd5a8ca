"""Fusion and block shapes over a whole network: dynamic programming over its layers in order.

Each of the layers that a network may be cut into (``tasks.variants``) has a cost, its best schedule's. A
state of the program is what has been computed and in which forms the tensors lie that are still to be
read. A layer that reads a tensor in a form in which it does not lie pays for the conversion, which then
is there for others too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mnv3c.codegen.program import Schedule
from mnv3c.ir.graph import Graph
from mnv3c.passes import run_passes
from mnv3c.schedules import Op
from mnv3c.tuning.conversions import Price
from mnv3c.tuning.tasks import Layer

Costs = Callable[[Op], float | None]

DENSE = ""

_Forms = frozenset[tuple[str, str]]  # tensor, form


@dataclass(frozen=True)
class Plan:
    """The layers of a network that cost the least together.

    Attributes:
        cost: of all layers with a known cost, conversions included.
    """

    layers: tuple[Layer, ...]
    cost: float

    def choices(self) -> dict[str, Schedule]:
        """Node to the network's choices, for ``Options.schedules``."""
        return {node: chosen for layer in self.layers for node, chosen in layer.choices.items()}


@dataclass(frozen=True)
class _Path:
    """A way to a state: its cost, and the layers on it as a linked list."""

    cost: float
    layer: Layer | None = None
    before: _Path | None = None

    def layers(self) -> tuple[Layer, ...]:
        found: list[Layer] = []
        at: _Path | None = self
        while at is not None:
            if at.layer is not None:
                found.append(at.layer)
            at = at.before
        return tuple(reversed(found))


def plan(
    graph: Graph,
    variants: Sequence[Layer],
    own: Sequence[Layer],
    costs: Costs,
    price: Price = float,
    force: Layer | None = None,
) -> Plan:
    """The cheapest way to cut ``graph`` into ``variants``.

    Args:
        own: the layers by the path's own rules. Where one of them has no cost, it stays.
        price: of a conversion between forms, in the unit of the costs, by the tensor's bytes.
        force: a layer that the plan must contain.
    """
    fused = run_passes(graph)
    order = {n.name: i for i, n in enumerate(fused.nodes)}
    last_read = {t: i for i, n in enumerate(fused.nodes) for t in n.inputs}
    usable = _usable(variants, own, costs, force)
    starts: dict[int, list[Layer]] = {}
    for layer in usable:
        starts.setdefault(min(order[n] for n in layer.nodes), []).append(layer)
    tuned_nodes = {n for layer in variants for n in layer.nodes}

    states: dict[tuple[frozenset[str], _Forms], _Path] = {(frozenset(), frozenset()): _Path(0.0)}
    for i, node in enumerate(fused.nodes):
        following: dict[tuple[frozenset[str], _Forms], _Path] = {}

        def reach(ahead: frozenset[str], forms: _Forms, way: _Path, i: int = i) -> None:
            live = frozenset(f for f in forms if last_read.get(f[0], -1) > i)
            key = (frozenset(n for n in ahead if order[n] > i), live)
            if key not in following or way.cost < following[key].cost:  # noqa: B023
                following[key] = way  # noqa: B023

        for (ahead, forms), way in states.items():
            if node.name in ahead or node.name not in tuned_nodes:
                reach(ahead, forms, way)
                continue
            for layer in starts.get(i, ()):
                extra, gained = _convert(fused, layer.needs, forms, price)
                cost = way.cost + (costs(layer.op) or 0.0) + extra
                reach(
                    ahead | frozenset(layer.nodes),
                    forms | gained | frozenset(layer.gives),
                    _Path(cost, layer, way),
                )
        states = following
    if not states:
        return Plan(tuple(own), math.inf)
    best = min(states.values(), key=lambda way: way.cost)
    return Plan(best.layers(), best.cost)


def _usable(
    variants: Sequence[Layer], own: Sequence[Layer], costs: Costs, force: Layer | None
) -> list[Layer]:
    """Variants with a cost, and the path's own layers; the latter alone where theirs is unknown."""
    mine = {(layer.nodes, layer.op) for layer in own}
    fixed = {n for layer in own if costs(layer.op) is None for n in layer.nodes}
    found = []
    for layer in variants:
        if force is not None and layer is not force and set(layer.nodes) & set(force.nodes):
            continue
        free = costs(layer.op) is not None and not fixed.intersection(layer.nodes)
        if free or (layer.nodes, layer.op) in mine:
            found.append(layer)
    return found


def _convert(
    fused: Graph, needs: Sequence[tuple[str, str]], forms: _Forms, price: Price
) -> tuple[float, _Forms]:
    """What it costs to have ``needs``, and the forms that are there then."""
    cost, gained = 0.0, set()
    for tensor, form in needs:
        have = {f for t, f in forms if t == tensor} or {DENSE}
        if form in have or (tensor, form) in gained:
            continue
        # Between two tiled forms the way leads through the dense one.
        steps = 1 if form == DENSE or DENSE in have else 2
        cost += steps * price(fused.tensor(tensor).bytes)
        gained.add((tensor, form))
    return cost, frozenset(gained)


def slack(
    graph: Graph,
    variants: Sequence[Layer],
    own: Sequence[Layer],
    costs: Costs,
    best: Plan,
    price: Price = float,
) -> Mapping[Op, float]:
    """For each operator: what the network costs more than ``best`` if one of its layers must be used."""
    found: dict[Op, float] = {layer.op: 0.0 for layer in best.layers}
    for layer in variants:
        if found.get(layer.op) == 0.0:
            continue
        forced = plan(graph, variants, own, costs, price, force=layer)
        found[layer.op] = min(found.get(layer.op, math.inf), forced.cost - best.cost)
    return found
