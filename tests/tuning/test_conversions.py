"""Prices of conversions between block shapes, against the kernels on the simulated core."""

from __future__ import annotations

import pytest

from mnv3c import targets
from mnv3c.bench import llvm, qemu
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.reference import integer
from mnv3c.tuning import conversions
from mnv3c.tuning.devices import Candidate
from mnv3c.tuning.devices.simulated import SimulatedDevice
from tests.graphs import Builder, random_inputs


def test_prices_by_hand():
    """Cortex-A55: 32 KiB and 128 KiB, fills of 8 and 45 cycles, lines of 64 bytes."""
    price = conversions.price(targets.get("cortex-a55"), "cycles")
    assert price(6400) == pytest.approx(0.36 * 6400)
    assert price(12800) == pytest.approx(0.36 * 12800 + 2 * 200 * 8)
    assert price(64000) == pytest.approx(0.36 * 64000 + 2 * 1000 * (8 + 45))
    seconds = conversions.price(targets.get("cortex-a55"), "s")
    assert seconds(64000) == pytest.approx(price(64000) / 2e9)


@pytest.mark.slow
@pytest.mark.parametrize(("core", "second"), [("cortex-a55", (20, 20, 64)), ("cortex-a76", (28, 28, 72))])
def test_prices_are_those_of_the_kernels(core, second):
    """Of tensors that fit into the first-level cache, into the second-level cache alone, and into neither."""
    if qemu.available() is None or llvm.tools() is None:
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    batch, sizes = [], {}
    for shape in ((7, 8, 64), second, (56, 56, 96)):
        b = Builder(4, "layer")
        graph = b.finish(b.conv(b.input(*shape), 8))
        library = build_library(graph, ["dotprod"], options=Options(tuning=core), settings={"target": core})
        names = [e["name"] for e in library.manifest["programs"]["dotprod"]["layers"]]
        (place,) = (i for i, n in enumerate(names) if n.startswith("tiles_from_dense"))
        inputs = random_inputs(graph)
        expected = integer.run(graph, inputs)
        key = "x".join(map(str, shape))
        sizes[key] = shape[0] * shape[1] * shape[2]
        arrays = [inputs[n] for n in graph.inputs], [expected[n] for n in graph.outputs]
        batch.append(Candidate.of(key, library, *arrays, layers=[place]))
    device = SimulatedDevice(targets.get(core))
    try:
        found = device.measure(batch)
    finally:
        device.close()
    price = conversions.price(targets.get(core), "cycles")
    assert all(m.ok for m in found)
    for m in found:
        assert price(sizes[m.key]) == pytest.approx(m.cost, rel=0.4), m.key
