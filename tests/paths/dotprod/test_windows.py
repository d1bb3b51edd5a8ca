"""Window plans against a direct sum over taps; bounds against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.ir.int_ops import QConv, Requant
from mnv3c.paths.common.bounds import requantised_range
from mnv3c.paths.dotprod.windows import NO_TAP, compatible, plan_lookup, plan_window
from mnv3c.reference.arithmetic import rdmulh32


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 3), (4, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("blocks", [((2, 2), (2, 2)), ((1, 4), (1, 4)), ((1, 4), (2, 2)), ((2, 2), (1, 4))])
def test_products_are_the_window(kernel, stride, dilation, blocks) -> None:
    block_in, block_out = blocks
    if not compatible(stride, block_in, block_out):
        pytest.skip("blocks do not repeat")
    pad = (1, 2)
    plan = plan_window(kernel, stride, (dilation, dilation), pad, block_in, block_out)
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, kernel)
    image = rng.integers(-128, 128, (80, 80))
    bi, bj = 6, 5  # an output block far from the borders
    for position in range(4):
        y = bi * block_out[0] + position // block_out[1]
        x = bj * block_out[1] + position % block_out[1]
        expected = sum(
            weight[ky, kx]
            * image[y * stride[0] + ky * dilation - pad[0], x * stride[1] + kx * dilation - pad[1]]
            for ky in range(kernel[0])
            for kx in range(kernel[1])
        )
        total = 0
        for p in plan.products:
            if p.position != position:
                continue
            row = (bi * plan.step[0] + plan.origin[0] + p.row) * block_in[0]
            column = (bj * plan.step[1] + plan.origin[1] + p.column) * block_in[1]
            for pixel, tap in enumerate(plan.vectors[p.vector]):
                if tap != NO_TAP:
                    at = image[row + pixel // block_in[1], column + pixel % block_in[1]]
                    total += weight.flat[tap] * at
        assert total == expected


def test_three_by_three_takes_one_product_an_output() -> None:
    plan = plan_window((3, 3), (1, 1), (1, 1), (1, 1), (2, 2), (2, 2))
    assert (len(plan.products), plan.span, plan.origin) == (16, (3, 3), (-1, -1))
    assert len(plan_window((5, 5), (1, 1), (1, 1), (2, 2), (2, 2), (2, 2)).products) == 36


def test_weight_vectors_by_look_up() -> None:
    plan = plan_window((5, 5), (2, 2), (1, 1), (2, 2), (1, 4), (1, 4))
    lookup = plan_lookup(plan, 5)
    assert lookup is not None
    weights = np.arange(1, 101, dtype=np.uint8).reshape(25, 4)  # [tap][channel]
    table = np.concatenate([weights.reshape(-1), np.zeros(64, np.uint8)])
    for (offset, index), taps in zip(lookup.vectors, plan.vectors, strict=True):
        window = table[offset : offset + 16 * lookup.registers]
        made = [0 if i == 255 else window[i] for i in lookup.indices[index]]
        expected = [0 if t == NO_TAP else weights[t, channel] for channel in range(4) for t in taps]
        assert made == expected


def test_bounds_are_reached_and_never_passed() -> None:
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (3, 1, 1, 4)).astype(np.int8)
    conv = QConv(
        "c",
        ("x",),
        ("y",),
        weight,
        np.array([5, -700, 90], np.int32),
        Requant(np.full(3, 1 << 28, np.int32), 1),
    )
    corners = np.array(np.meshgrid(*[[-128, 127]] * 4)).reshape(4, -1)
    acc = weight.reshape(3, 4).astype(np.int64) @ corners + conv.bias[:, None]
    values = rdmulh32(acc << 1, np.int64(1 << 28))
    assert requantised_range(conv) == (values.min(), values.max())
