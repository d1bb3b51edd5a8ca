"""The batched executors against the one-image ones that define them."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.quant import batched, quantize
from mnv3c.reference import floating, integer

from .networks import block_network, inputs


@pytest.mark.parametrize("seed", [0, 1])
def test_integer_batch_is_bit_equal_to_reference(seed: int) -> None:
    graph = block_network(seed)
    quantized = quantize(graph, inputs(graph, 6, seed), seed=seed)
    rng = np.random.default_rng(seed)
    batch = rng.integers(-128, 128, (3, *graph.tensor("x").shape)).astype(np.int8)
    got = batched.run_integer(quantized, batch)
    for i, x in enumerate(batch):
        want = integer.run(quantized, {"x": x})[quantized.outputs[0]]
        assert got[i].dtype == want.dtype
        np.testing.assert_array_equal(got[i], want)


def test_float_batch_is_close_to_reference() -> None:
    graph = block_network(3)
    batch = np.stack(inputs(graph, 3, 3))
    got = batched.run_float(graph, batch)
    for i, x in enumerate(batch):
        want = floating.run(graph, {"x": x})[graph.outputs[0]]
        np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)
