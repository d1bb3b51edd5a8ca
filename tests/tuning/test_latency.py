from __future__ import annotations

import csv
import io

import pytest

from mnv3c import targets
from mnv3c.tuning import grid, latency
from mnv3c.tuning.journal import Journal
from tests.graphs import Builder, inverted_residual
from tests.tuning.networks import MadeUpDevice, network

CORE = targets.get("cortex-a55")


def meter(device):
    return latency.Meter("dotprod", CORE, device, Journal(None, device.name, "clang 19"), [], "clang")


def test_places_are_those_of_the_networks_blocks():
    found = grid.places(network())
    assert [(p.input, p.out, p.stride) for p in found] == [
        ((12, 12, 8), 8, 1),
        ((12, 12, 8), 16, 2),
        ((6, 6, 16), 16, 1),
    ]
    assert {p.activation for p in found} == {"hswish"}


def test_a_network_has_a_line_a_layer_and_each_operator_is_measured_once():
    device = MadeUpDevice()
    entries = meter(device).network(network())
    assert len(entries) > len(device.seen) == len(set(device.seen))
    assert all(e.cost and not e.tuned for e in entries)
    rows = list(csv.DictReader(io.StringIO(latency.network_csv(entries, "cycles"))))
    assert [float(r["cost"]) for r in rows] == [e.cost for e in entries]


def test_what_cannot_be_measured_has_no_cost():
    entries = meter(MadeUpDevice(fails=lambda c: True)).network(network())
    assert {e.cost for e in entries} == {None}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_grid_has_every_block_in_each_place(stride):
    b = Builder(1, "small")
    x = b.conv(b.input(8, 8, 3), 8, 3, stride=1, pad=(1, 1, 1, 1))
    graph = b.finish(inverted_residual(b, x, 16, 8, 3, stride))
    device = MadeUpDevice(lambda candidate: 1.0)
    blocks = meter(device).grid(graph)
    combinations = {(k.kernel, k.channels, k.squeeze) for k in blocks}
    assert len(blocks) == len(combinations) == 12
    assert {c for _, c, _ in combinations} == {24, 32, 48}
    # One cycle a layer: SE is a gate and two fully connected layers more.
    costs = {k.squeeze: k.cost for k in blocks}
    assert costs[True] == costs[False] + 3
    rows = list(csv.DictReader(io.StringIO(latency.grid_csv(blocks, "cycles"))))
    assert {r["stride"] for r in rows} == {str(stride)} and len(rows) == 12
