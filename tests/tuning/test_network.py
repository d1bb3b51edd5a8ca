from __future__ import annotations

import numpy as np
import pytest

from mnv3c.codegen.program import Options
from mnv3c.passes import run_passes
from mnv3c.paths import registry
from mnv3c.tuning import network as planning
from mnv3c.tuning import tasks
from tests.graphs import Builder, inverted_residual
from tests.tuning.networks import network

CORE = "cortex-a55"


@pytest.fixture(scope="module")
def everything():
    graph = network()
    return graph, tasks.variants(graph, "dotprod", CORE), tasks.layers(graph, "dotprod", CORE)


def total(graph, layers, costs):
    """Cost of a chain of layers, conversions included, counted one by one."""
    graph = run_passes(graph)
    forms: dict[str, set[str]] = {}
    cost = 0.0
    for layer in layers:
        for tensor, form in layer.needs:
            have = forms.setdefault(tensor, {""})
            if form not in have:
                cost += (1 if "" in have else 2) * graph.tensor(tensor).bytes
                have.add(form)
        for tensor, form in layer.gives:
            forms[tensor] = {form}
        cost += costs[layer.op]
    return cost


def every_plan(graph, variants):
    """All ways to cover the tunable nodes, by brute force."""
    order = [n.name for n in run_passes(graph).nodes]
    tunable = {n for v in variants for n in v.nodes}
    starts: dict[str, list] = {}
    for v in variants:
        starts.setdefault(min(v.nodes, key=order.index), []).append(v)

    def extend(i, covered):
        if i == len(order):
            yield ()
            return
        name = order[i]
        if name in covered or name not in tunable:
            yield from extend(i + 1, covered)
            return
        for v in starts.get(name, ()):
            for rest in extend(i + 1, covered | set(v.nodes)):
                yield (v, *rest)

    return extend(0, frozenset())


def short():
    """One block with SE: few enough plans to list them all."""
    b = Builder(1, "short")
    x = b.conv(b.input(24, 24, 3), 8, 3, stride=2, pad=(1, 1, 1, 1))
    x = inverted_residual(b, x, 24, 8, 3, 1)
    return b.finish(inverted_residual(b, x, 24, 16, 5, 2, reduced=8))


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_best_of_all_plans(seed):
    graph = short()
    variants, own = tasks.variants(graph, "dotprod", CORE), tasks.layers(graph, "dotprod", CORE)
    rng = np.random.default_rng(seed)
    ops = sorted({v.op for v in variants}, key=lambda op: op.key)
    costs = {op: float(rng.integers(100, 6000)) for op in ops}
    found = planning.plan(graph, variants, own, costs.get)
    plans = list(every_plan(graph, variants))
    assert len(plans) > 90
    assert found.cost == total(graph, found.layers, costs) == min(total(graph, p, costs) for p in plans)


def test_the_paths_own_plan_costs_what_its_layers_cost(everything):
    graph, _, own = everything
    costs = {layer.op: 7.0 for layer in own}
    found = planning.plan(graph, own, own, costs.get)
    assert found.layers == tuple(own)


def test_layers_without_a_cost_stay_as_they_are(everything):
    graph, variants, own = everything
    found = planning.plan(graph, variants, own, lambda op: None)
    assert {(x.nodes, x.op) for x in found.layers} == {(x.nodes, x.op) for x in own}
    known = {v.op: (1.0 if v not in own else 1e6) for v in variants if v.op.operator != "gate"}
    found = planning.plan(graph, variants, own, known.get)
    gates = {x.op for x in found.layers if x.op.operator == "gate"}
    assert gates == {x.op for x in own if x.op.operator == "gate"}


def test_the_choices_of_a_plan_make_its_layers(everything):
    graph, variants, own = everything
    rng = np.random.default_rng(5)
    costs = {v.op: float(rng.integers(100, 9000)) for v in variants}
    found = planning.plan(graph, variants, own, costs.get)
    made = tasks.layers(graph, "dotprod", CORE, found.choices())
    assert [(x.nodes, x.op) for x in made] == [(x.nodes, x.op) for x in found.layers]
    assert [x.op for x in made] != [x.op for x in own]
    program = registry.load("dotprod").lower(run_passes(graph), Options(CORE, schedules=found.choices()))
    assert len(program.stages) >= len(made)


def test_slack_is_nothing_for_layers_of_the_plan_and_what_it_costs_for_others(everything):
    graph, variants, own = everything
    rng = np.random.default_rng(6)
    costs = {v.op: float(rng.integers(100, 6000)) for v in variants}
    best = planning.plan(graph, variants, own, costs.get)
    slack = planning.slack(graph, variants, own, costs.get, best)
    assert all(slack[x.op] == 0 for x in best.layers)
    assert all(s >= 0 for s in slack.values()) and any(s > 0 for s in slack.values())
