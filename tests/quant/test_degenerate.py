"""Input that is bad, and networks at the edge of what integers can hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node
from mnv3c.quant import Options, quantize
from mnv3c.reference import floating, integer

from .networks import block_network, build, conv, inputs, relu, swish

SHAPE = (6, 5, 4)


def single(change: str) -> Graph:
    rng = np.random.default_rng(8)
    first = conv(rng, "a", "x", 4, 6, 3)
    if change == "dead channel":
        first.weight[2] = 0
    if change == "dead channel with a bias":
        first.weight[2] = 0
        first.bias[2] = 50
    if change == "never positive":
        first.bias[:] = -1000
    if change == "all zero":
        first.weight[:] = 0
        first.bias[:] = 0
    if change == "tiny weights":
        first.weight[:] *= 1e-12
    if change == "huge weights":
        first.weight[:] *= 1e9
    if change == "one tiny channel":
        first.weight[1] *= 1e-9
    if change == "huge bias":
        first.bias[3] = 1e7
    return build(
        SHAPE,
        [first, relu("b", "a"), conv(rng, "c", "b", 6, 6, 3, depthwise=True), conv(rng, "d", "c", 6, 3)],
    )


@pytest.mark.parametrize("rounding", ["nearest", "reconstruct"])
@pytest.mark.parametrize(
    "change",
    [
        "dead channel",
        "dead channel with a bias",
        "never positive",
        "all zero",
        "tiny weights",
        "huge weights",
        "one tiny channel",
        "huge bias",
    ],
)
def test_degenerate_weights_stay_within_32_bits(change: str, rounding: str) -> None:
    graph = single(change)
    data = inputs(graph, 6, 0)
    quantized = quantize(
        graph, data, options=Options(rounding=rounding)
    )  # verifies: no accumulator overflows
    tensor, output = quantized.tensor("x").quant, quantized.tensor("d").quant
    assert tensor is not None and output is not None
    raw = np.clip(np.rint(data[0] / tensor.scale[0]), -128, 127).astype(np.int8)
    got = integer.run(quantized, {"x": raw})["d"] * output.scale[0]
    want = floating.run(graph, {"x": data[0]})["d"]
    assert np.abs(got - want).max() <= 0.06 * np.abs(want).max() + 2 * output.scale[0]


def test_constant_input() -> None:
    graph = single("")
    quantized = quantize(graph, [np.zeros(SHAPE, np.float32)] * 3)
    values = integer.run(quantized, {"x": np.zeros(SHAPE, np.int8)})
    assert values["d"].shape == (6, 5, 3)


def test_not_finite_weight_names_the_convolution() -> None:
    graph = single("")
    node = graph.nodes[2]
    assert isinstance(node, f.Conv2d)
    node.weight[0, 0, 0, 0] = np.nan
    with pytest.raises(Mnv3cError, match=r"^c: .*not finite"):
        quantize(graph, inputs(graph, 2, 0))


def test_not_finite_activation_names_the_tensor() -> None:
    graph = single("")
    for name in ("a", "c"):
        node = graph.producer(name)
        assert isinstance(node, f.Conv2d)
        node.weight[:] = 3e38
    with pytest.raises(Mnv3cError, match=r"^[abcd]: .*not finite"), np.errstate(all="ignore"):
        quantize(graph, inputs(graph, 2, 0))


@pytest.mark.parametrize(
    "data,message",
    [
        ([], "no calibration inputs"),
        ([np.zeros((6, 5, 3), np.float32)], "shape"),
        ([np.full(SHAPE, np.nan, np.float32)], "NaN"),
    ],
)
def test_bad_calibration(data: list[np.ndarray], message: str) -> None:
    with pytest.raises(Mnv3cError, match=message):
        quantize(single(""), data)


def test_unknown_dtype() -> None:
    with pytest.raises(Mnv3cError, match="int4"):
        quantize(single(""), None, input_dtype="int4")


def test_random_calibration_is_said() -> None:
    graph = block_network(0)
    assert quantize(graph).meta["random_calibration"] is True
    assert "random_calibration" not in quantize(graph, inputs(graph, 2, 0)).meta


def test_softmax_at_the_end_is_left_out_and_said() -> None:
    rng = np.random.default_rng(0)
    graph = build((1, 1, 4), [conv(rng, "a", "x", 4, 5), f.Softmax("p", ("a",), ("p",))])
    quantized = quantize(graph, inputs(graph, 4, 0))
    assert quantized.outputs == ("a",)
    assert any("softmax p" in note for note in quantized.meta["notes"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "nodes,name",
    [
        ([f.ArgMax("a", ("x",), ("a",)), f.Softmax("p", ("a",), ("p",)), swish("b", "p")], "p"),
    ],
)
def test_what_has_no_integer_form_is_named(nodes: list[Node], name: str) -> None:
    graph = build(SHAPE, nodes)
    with pytest.raises(Mnv3cError, match=f"^{name}: "):
        quantize(graph, inputs(graph, 2, 0))


def test_same_seed_same_bits() -> None:
    graph = block_network(2)
    data = inputs(graph, 8, 0)
    one, two = (quantize(graph, data, seed=7) for _ in range(2))
    assert one.tensors == two.tensors and one.meta == two.meta
    for a, b in zip(one.nodes, two.nodes, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_equal(_plain(getattr(a, field.name)), _plain(getattr(b, field.name)))


def _plain(value: object) -> object:
    return dataclasses.asdict(value) if isinstance(value, q.Requant) else value


def test_progress_counts_to_the_end() -> None:
    graph = block_network(0)
    seen: list[tuple[str, int, int]] = []
    quantize(graph, inputs(graph, 2, 0), progress=lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2] and [s[1] for s in seen] == list(range(1, len(seen) + 1))


def test_networks_trained_by_tensor_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    by_tensor = rng.integers(-128, 128, (64, 3, 3, 8)).astype(np.float32) * np.float32(0.0123)
    by_channel = by_tensor * rng.uniform(0.5, 2, (64, 1, 1, 1)).astype(np.float32)
    trained = rng.normal(0, 1, (64, 3, 3, 8)).astype(np.float32)
    found = []
    for weight in (by_tensor, by_channel, trained):
        node = f.Conv2d("a", ("x",), ("a",), weight, np.zeros(64, np.float32))
        graph = build((4, 4, 8), [node])
        notes = quantize(graph, inputs(graph, 2, 0)).meta["notes"]
        found.append(any("trained to be quantised" in str(n) for n in notes))  # type: ignore[attr-defined]
    assert found == [True, False, False]


@pytest.mark.parametrize("gain,fails", [(150.0, False), (250.0, False), (5000.0, True)])
def test_wide_h_swish_is_cut_off_and_far_wider_is_refused(gain: float, fails: bool) -> None:
    # The operator holds results up to 192.
    one = f.Conv2d("a", ("x",), ("a",), np.full((1, 1, 1, 1), gain, np.float32), np.zeros(1, np.float32))
    graph = build((1, 1, 1), [one, swish("b", "a")])
    data = [np.full((1, 1, 1), v, np.float32) for v in np.linspace(-1, 1, 41)]
    if fails:
        with pytest.raises(Mnv3cError, match=r"^b: h-swish"):
            quantize(graph, data)
        return
    quantized = quantize(graph, data)
    quant = quantized.tensor("b").quant
    assert quant is not None
    for raw in (-127, 0, 30, 127):
        out = integer.run(quantized, {"x": np.full((1, 1, 1), raw, np.int8)})["b"].item()
        want = min(max(raw, 0) / 127 * gain, 192)
        assert (out - quant.zero_point[0]) * quant.scale[0] == pytest.approx(want, abs=0.02 * min(gain, 192))
