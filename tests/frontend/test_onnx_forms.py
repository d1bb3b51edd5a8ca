"""Every way that exporters write MobileNetV3's operators, against onnxruntime."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.quant import quantize
from tests.frontend.onnx_models import CHANNELS, CONV, check, convolution, kinds, model, node

NUMBERS = {
    "three": np.float32(3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "zero": np.float32(0),
    "half": np.float32(0.5),
    "one": np.float32(1),
}


def relu6(form: str, x: str, y: str) -> list[NodeProto]:
    if form == "clip":
        return [node("Clip", [x, "zero", "six"], y)]
    if form == "min_max":
        return [node("Max", [x, "zero"], f"{y}_0"), node("Min", ["six", f"{y}_0"], y)]
    return [node("Relu", [x], f"{y}_0"), node("Min", [f"{y}_0", "six"], y)]


def hard_swish(bound: str, form: str, swap: bool) -> list[NodeProto]:
    """x * relu6(x + 3) / 6 with the operations in different order."""

    def pair(a: str, b: str) -> list[str]:
        return [b, a] if swap else [a, b]

    shift = [node("Add", pair("c", "three"), "s"), *relu6(bound, "s", "r")]
    if form == "product_then_divide":
        return [*shift, node("Mul", pair("c", "r"), "p"), node("Div", ["p", "six"], "y")]
    if form == "product_then_multiply":
        return [*shift, node("Mul", pair("c", "r"), "p"), node("Mul", pair("p", "sixth"), "y")]
    if form == "divide_gate":
        return [*shift, node("Div", ["r", "six"], "g"), node("Mul", pair("c", "g"), "y")]
    if form == "multiply_gate":
        return [*shift, node("Mul", pair("r", "sixth"), "g"), node("Mul", pair("c", "g"), "y")]
    if form == "divide_input":
        return [*shift, node("Div", ["c", "six"], "g"), node("Mul", pair("g", "r"), "y")]
    assert form == "subtract_negative"
    minus = [node("Sub", ["zero", "three"], "m"), node("Sub", ["c", "m"], "s"), *relu6(bound, "s", "r")]
    return [*minus, node("Mul", pair("c", "r"), "p"), node("Div", ["p", "six"], "y")]


FORMS = (
    "product_then_divide",
    "product_then_multiply",
    "divide_gate",
    "multiply_gate",
    "divide_input",
    "subtract_negative",
)


@pytest.mark.parametrize(
    ("bound", "form", "swap"), list(itertools.product(("clip", "min_max", "relu_min"), FORMS, (False, True)))
)
def test_hard_swish_forms(bound: str, form: str, swap: bool, tmp_path: Path) -> None:
    nodes = [CONV, *hard_swish(bound, form, swap)]
    graph = check(model(nodes, convolution() | NUMBERS), tmp_path)
    assert kinds(graph) == ["Conv2d", "hard_swish"]
    assert graph.nodes[1].slope == 1 / 6  # type: ignore[attr-defined]


def test_hard_swish_operator_and_hard_sigmoid_product(tmp_path: Path) -> None:
    proto = model([CONV, node("HardSwish", ["c"], "y")], convolution())
    assert kinds(check(proto, tmp_path)) == ["Conv2d", "hard_swish"]
    gate = node("HardSigmoid", ["c"], "g", alpha=1 / 6, beta=0.5)
    proto = model([CONV, gate, node("Mul", ["g", "c"], "y")], convolution())
    assert kinds(check(proto, tmp_path)) == ["Conv2d", "hard_swish"]


@pytest.mark.parametrize(
    ("slope", "offset", "expected"), [(0.2, 0.5, 0.2), (1 / 6, 0.5, 1 / 6), (0.16667, 0.5, 0.16667)]
)
def test_hard_sigmoid_keeps_its_slope(slope: float, offset: float, expected: float, tmp_path: Path) -> None:
    proto = model([CONV, node("HardSigmoid", ["c"], "y", alpha=slope, beta=offset)], convolution())
    graph = check(proto, tmp_path)
    assert kinds(graph) == ["Conv2d", "hard_sigmoid"]
    assert graph.nodes[1].slope == pytest.approx(expected, abs=1e-7)  # type: ignore[attr-defined]


def test_rounded_sixth_leaves_its_excess_in_the_next_convolution(tmp_path: Path) -> None:
    """relu6(x + 3) * 0.16667 ends at 1.00002; the gate of the graph ends at 1."""
    constants = convolution() | NUMBERS | {"rounded": np.float32(0.16667)}
    constants["w2"] = convolution(1, 1, CHANNELS)["w"]
    nodes = [
        CONV,
        node("GlobalAveragePool", ["c"], "p"),
        node("Add", ["p", "three"], "s"),
        node("Clip", ["s", "zero", "six"], "r"),
        node("Mul", ["r", "rounded"], "g"),
        node("Mul", ["c", "g"], "m"),
        node("Conv", ["m", "w2"], "y"),
    ]
    graph = check(model(nodes, constants), tmp_path, tolerance=2e-6)
    assert kinds(graph) == ["Conv2d", "GlobalAveragePool", "hard_sigmoid", "Multiply", "Conv2d"]
    last = graph.nodes[-1]
    assert isinstance(last, f.Conv2d)
    ratio = last.weight.transpose(0, 3, 1, 2) / constants["w2"]
    assert ratio == pytest.approx(1.00002, abs=1e-6)


@pytest.mark.parametrize("opset", [7, 11, 17])
def test_clip_of_every_opset(opset: int, tmp_path: Path) -> None:
    if opset < 11:
        clip = node("Clip", ["c"], "y", min=-1.0, max=2.5)
        constants = {}
    else:
        clip, constants = (
            node("Clip", ["c", "low", "high"], "y"),
            {"low": np.float32(-1), "high": np.float32(2.5)},
        )
    graph = check(model([CONV, clip], convolution() | constants, opset=opset), tmp_path)
    assert kinds(graph) == ["Conv2d", "clip"]
    assert (graph.nodes[1].low, graph.nodes[1].high) == (-1.0, 2.5)  # type: ignore[attr-defined]


def test_relu_sigmoid_and_softmax(tmp_path: Path) -> None:
    assert kinds(check(model([CONV, node("Relu", ["c"], "y")], convolution()), tmp_path)) == [
        "Conv2d",
        "clip",
    ]
    proto = model([CONV, node("Sigmoid", ["c"], "y")], convolution())
    assert kinds(check(proto, tmp_path)) == ["Conv2d", "sigmoid"]
    for opset in (11, 13):
        nodes = [CONV, node("GlobalAveragePool", ["c"], "p"), node("Softmax", ["p"], "y", axis=1)]
        assert kinds(check(model(nodes, convolution(), opset=opset), tmp_path))[-1] == "Softmax"


SOFT = {
    "map": [node("Softmax", ["c"], "s", axis=1)],
    "map, from the end": [node("Softmax", ["c"], "s", axis=-3)],
    "channels last": [
        node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
        node("Softmax", ["t"], "u"),
        node("Transpose", ["u"], "s", perm=[0, 3, 1, 2]),
    ],
    "gate": [node("GlobalAveragePool", ["c"], "p"), node("Softmax", ["p"], "s", axis=1)],
    "gate, as a vector": [
        node("GlobalAveragePool", ["c"], "p"),
        node("Flatten", ["p"], "t"),
        node("Softmax", ["t"], "u", axis=-1),
        node("Reshape", ["u", "gate"], "s"),
    ],
}


@pytest.mark.parametrize("form", SOFT)
def test_softmax_inside(form: str, tmp_path: Path) -> None:
    constants = convolution() | {"gate": np.asarray([1, CHANNELS, 1, 1], np.int64)}
    graph = check(model([CONV, *SOFT[form], node("Mul", ["c", "s"], "y")], constants), tmp_path)
    assert kinds(graph)[-2:] == ["Softmax", "Multiply"]
    graph = quantize(graph)
    assert any(isinstance(n, q.QSoftmax) for n in graph) and graph.meta["notes"] == []


@pytest.mark.parametrize("size", [11, 12])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
def test_padding(size: int, kernel: int, stride: int, mode: str, tmp_path: Path) -> None:
    attributes: dict[str, object] = {"auto_pad": mode, "strides": [stride, stride]}
    if mode == "NOTSET":
        attributes["pads"] = [kernel // 2] * 4
    conv = node("Conv", ["x", "w", "b"], "y", **attributes)
    check(model([conv], convolution(kernel=kernel), shape=(1, 3, size, size)), tmp_path)


def test_asymmetric_padding_stride_and_dilation(tmp_path: Path) -> None:
    conv = node("Conv", ["x", "w", "b"], "y", pads=[0, 1, 2, 3], strides=[2, 1], dilations=[1, 2])
    graph = check(model([conv], convolution()), tmp_path)
    first = graph.nodes[0]
    assert isinstance(first, f.Conv2d)
    assert (first.pad, first.stride, first.dilation) == ((0, 1, 2, 3), (2, 1), (1, 2))


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups(groups: int, tmp_path: Path) -> None:
    constants = convolution() | {
        "w2": np.random.default_rng(3).normal(0, 1, (12, CHANNELS // groups, 3, 3)).astype(np.float32)
    }
    conv = node("Conv", ["c", "w2"], "y", group=groups, pads=[1, 1, 1, 1])
    graph = check(model([CONV, conv], constants), tmp_path)
    assert graph.nodes[-1].groups == groups  # type: ignore[attr-defined]


@pytest.mark.parametrize("opset", [10, 13, 18])
def test_pad_in_front_of_a_convolution(opset: int, tmp_path: Path) -> None:
    amounts = [0, 0, 0, 1, 0, 0, 1, 2]
    constants = convolution()
    if opset < 11:
        pad = node("Pad", ["x"], "p", pads=amounts, mode="constant", value=0.0)
    else:
        constants |= {"amounts": np.asarray(amounts, np.int64), "fill": np.float32(0)}
        pad = node("Pad", ["x", "amounts", "fill"], "p")
    conv = node("Conv", ["p", "w", "b"], "y", strides=[2, 2], pads=[1, 0, 0, 0])
    graph = check(model([pad, conv], constants, opset=opset), tmp_path)
    assert graph.nodes[0].pad == (1, 1, 1, 2)  # type: ignore[attr-defined]


POOLS = {
    "global": lambda: [node("GlobalAveragePool", ["c"], "y")],
    "mean": lambda: [node("ReduceMean", ["c"], "y", axes=[2, 3], keepdims=1)],
    "mean_negative": lambda: [node("ReduceMean", ["c"], "y", axes=[-1, -2], keepdims=0)],
    "average": lambda: [node("AveragePool", ["c"], "y", kernel_shape=[12, 12])],
    "average_strided": lambda: [node("AveragePool", ["c"], "y", kernel_shape=[12, 12], strides=[3, 3])],
}


@pytest.mark.parametrize("form", POOLS)
def test_global_pool_forms(form: str, tmp_path: Path) -> None:
    graph = check(model([CONV, *POOLS[form]()], convolution()), tmp_path)
    assert kinds(graph) == ["Conv2d", "GlobalAveragePool"]


def test_mean_with_axes_as_input(tmp_path: Path) -> None:
    mean = node("ReduceMean", ["c", "axes"], "y", keepdims=1)
    proto = model([CONV, mean], convolution() | {"axes": np.asarray([2, 3], np.int64)}, opset=18)
    assert kinds(check(proto, tmp_path)) == ["Conv2d", "GlobalAveragePool"]


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 1, 1]])
def test_window_pools(op: str, pads: list[int], tmp_path: Path) -> None:
    pool = node(op, ["c"], "y", kernel_shape=[3, 2], strides=[2, 2], pads=pads)
    assert kinds(check(model([CONV, pool], convolution()), tmp_path)) == [
        "Conv2d",
        "average" if op == "AveragePool" else "max",
    ]
    if op == "AveragePool":
        pool.attribute.append(helper.make_attribute("count_include_pad", 1))
        check(model([CONV, pool], convolution()), tmp_path)


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_of_pools(op: str, mode: str, tmp_path: Path) -> None:
    pool = node(op, ["c"], "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad=mode)
    check(model([CONV, pool], convolution()), tmp_path)


def test_pool_that_fits_needs_no_ceiling(tmp_path: Path) -> None:
    pool = node("MaxPool", ["c"], "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    check(model([CONV, pool], convolution()), tmp_path)


def test_several_outputs(tmp_path: Path) -> None:
    proto = model([CONV, node("Relu", ["c"], "r"), node("GlobalAveragePool", ["r"], "y")], convolution())
    proto.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, CHANNELS, 12, 12]))
    graph = check(proto, tmp_path)
    assert len(graph.outputs) == 2


def test_half_precision_weights(tmp_path: Path) -> None:
    """Weights stored as float16 behind a Cast, as size-reducing tools leave them."""
    constants = convolution()
    constants["half"] = constants.pop("w").astype(np.float16)
    cast = node("Cast", ["half"], "w", to=TensorProto.FLOAT)
    assert kinds(check(model([cast, CONV, node("Relu", ["c"], "y")], constants), tmp_path)) == [
        "Conv2d",
        "clip",
    ]


def classifier(form: str) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """From the pooled ``p`` to ``y`` with ten classes."""
    rng = np.random.default_rng(4)
    matrix = rng.normal(0, 1, (CHANNELS, 10)).astype(np.float32)
    bias = rng.normal(0, 1, 10).astype(np.float32)
    flat = np.asarray([0, -1], np.int64)
    if form == "gemm":
        return [node("Flatten", ["p"], "f"), node("Gemm", ["f", "m", "t"], "y")], {"m": matrix, "t": bias}
    if form == "gemm_transposed":
        gemm = node("Gemm", ["f", "m", "t"], "y", transB=1, alpha=0.5, beta=2.0)
        return [node("Reshape", ["p", "flat"], "f"), gemm], {"m": matrix.T.copy(), "t": bias, "flat": flat}
    if form == "matmul":
        nodes = [
            node("Squeeze", ["p", "axes"], "f"),
            node("MatMul", ["f", "m"], "l"),
            node("Add", ["t", "l"], "y"),
        ]
        return nodes, {"m": matrix, "t": bias, "axes": np.asarray([2, 3], np.int64)}
    if form == "channels_last":
        nodes = [node("Transpose", ["p"], "q", perm=[0, 2, 3, 1]), node("MatMul", ["q", "m"], "y")]
        return nodes, {"m": matrix}
    if form == "conv":
        nodes = [
            node("Conv", ["p", "m", "t"], "l"),
            node("Identity", ["l"], "i"),
            node("Flatten", ["i"], "y"),
        ]
        return nodes, {"m": matrix.T.reshape(10, CHANNELS, 1, 1).copy(), "t": bias}
    assert form == "unsqueezed"
    nodes = [
        node("Flatten", ["p"], "f"),
        node("Dropout", ["f"], "d"),
        node("Unsqueeze", ["d", "axes"], "u"),
        node("Conv", ["u", "m", "t"], "l"),
        node("Squeeze", ["l"], "y"),
    ]
    constants = {
        "m": matrix.T.reshape(10, CHANNELS, 1, 1).copy(),
        "t": bias,
        "axes": np.asarray([2, 3], np.int64),
    }
    return nodes, constants


@pytest.mark.parametrize("form", ["gemm", "gemm_transposed", "matmul", "channels_last", "conv", "unsqueezed"])
def test_classifiers(form: str, tmp_path: Path) -> None:
    nodes, constants = classifier(form)
    pool = node("GlobalAveragePool", ["c"], "p")
    graph = check(model([CONV, pool, *nodes], convolution() | constants), tmp_path)
    assert kinds(graph) == ["Conv2d", "GlobalAveragePool", "Conv2d"]
    assert graph.tensor(graph.outputs[0]).shape == (1, 1, 10)


def test_fully_connected_of_a_whole_map(tmp_path: Path) -> None:
    matrix = np.random.default_rng(5).normal(0, 0.1, (CHANNELS * 144, 4)).astype(np.float32)
    nodes = [CONV, node("Flatten", ["c"], "f"), node("MatMul", ["f", "m"], "y")]
    graph = check(model(nodes, convolution() | {"m": matrix}), tmp_path)
    assert graph.nodes[1].weight.shape == (4, 12, 12, CHANNELS)  # type: ignore[attr-defined]


def test_batch_norm_is_folded(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    constants = convolution() | {
        "gamma": rng.normal(0, 1, CHANNELS).astype(np.float32),
        "beta": rng.normal(0, 1, CHANNELS).astype(np.float32),
        "mean": rng.normal(0, 1, CHANNELS).astype(np.float32),
        "variance": rng.uniform(0.1, 2, CHANNELS).astype(np.float32),
    }
    norm = node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], "n", epsilon=0.001)
    graph = check(model([CONV, norm, node("Relu", ["n"], "y")], constants), tmp_path)
    assert kinds(graph) == ["Conv2d", "clip"]


def test_scales_and_shifts_move_into_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    constants = convolution() | {
        "k": rng.uniform(0.5, 2, (CHANNELS, 1, 1)).astype(np.float32),
        "t": rng.normal(0, 1, (1, CHANNELS, 1, 1)).astype(np.float32),
        "s": np.float32(0.3),
        "w2": rng.normal(0, 1, (4, CHANNELS, 1, 1)).astype(np.float32),
    }
    nodes = [
        CONV,
        node("Mul", ["k", "c"], "m"),
        node("Sub", ["m", "t"], "n"),
        node("Div", ["n", "s"], "d"),
        node("Relu", ["d"], "r"),
        node("Mul", ["r", "k"], "m2"),
        node("Add", ["m2", "t"], "a2"),
        node("Conv", ["a2", "w2"], "y"),
    ]
    assert kinds(check(model(nodes, constants), tmp_path)) == ["Conv2d", "clip", "Conv2d"]


def test_scale_with_no_convolution_near_becomes_depthwise(tmp_path: Path) -> None:
    constants = convolution() | {"k": np.linspace(0.5, 2, CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1)}
    nodes = [CONV, node("Relu", ["c"], "r"), node("Mul", ["r", "k"], "m"), node("Add", ["m", "r"], "y")]
    graph = check(model(nodes, constants), tmp_path)
    assert kinds(graph) == ["Conv2d", "clip", "Conv2d", "Add"]
    assert graph.nodes[2].groups == CHANNELS  # type: ignore[attr-defined]


def test_a_value_with_two_readers_is_not_folded_away(tmp_path: Path) -> None:
    constants = convolution() | {"k": np.float32(2), "t": np.float32(0.7)}
    nodes = [CONV, node("Mul", ["c", "k"], "m"), node("Relu", ["m"], "r"), node("Add", ["c", "r"], "y")]
    check(model(nodes, constants), tmp_path)
    nodes = [CONV, node("Add", ["c", "t"], "m"), node("Relu", ["m"], "r"), node("Mul", ["r", "c"], "y")]
    check(model(nodes, constants), tmp_path)


def test_squeeze_and_excite_with_residual(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    constants = convolution() | {
        "down": rng.normal(0, 1, (4, CHANNELS, 1, 1)).astype(np.float32),
        "up": rng.normal(0, 1, (CHANNELS, 4, 1, 1)).astype(np.float32),
        "dw": rng.normal(0, 0.5, (CHANNELS, 1, 5, 5)).astype(np.float32),
        "project": rng.normal(0, 1, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32),
    }
    nodes = [
        CONV,
        node("HardSwish", ["c"], "h"),
        node("Conv", ["h", "dw"], "d", group=CHANNELS, pads=[2, 2, 2, 2]),
        node("HardSwish", ["d"], "e"),
        node("GlobalAveragePool", ["e"], "p"),
        node("Conv", ["p", "down"], "q"),
        node("Relu", ["q"], "r"),
        node("Conv", ["r", "up"], "u"),
        node("HardSigmoid", ["u"], "g", alpha=1 / 6),
        node("Mul", ["g", "e"], "m"),
        node("Conv", ["m", "project"], "o"),
        node("Add", ["o", "h"], "y"),
    ]
    graph = check(model(nodes, constants), tmp_path)
    assert kinds(graph)[-4:] == ["hard_sigmoid", "Multiply", "Conv2d", "Add"]
    gate = next(n for n in graph if isinstance(n, f.Multiply))
    assert graph.tensor(gate.inputs[1]).shape == (1, 1, CHANNELS)


@pytest.mark.parametrize("per_channel", [False, True])
def test_input_normalisation_leaves_the_graph(per_channel: bool, tmp_path: Path) -> None:
    shape = (1, 3, 1, 1) if per_channel else ()
    rng = np.random.default_rng(9)
    constants = convolution() | {
        "mean": rng.uniform(0.3, 0.6, shape).astype(np.float32),
        "deviation": rng.uniform(0.2, 0.4, shape).astype(np.float32),
    }
    nodes = [node("Sub", ["x", "mean"], "s"), node("Div", ["s", "deviation"], "n")]
    conv = node("Conv", ["n", "w", "b"], "y", pads=[1, 1, 1, 1])
    graph = check(model([*nodes, conv], constants), tmp_path)
    assert kinds(graph) == ["Conv2d"]
    affine = graph.meta["input_affine"]
    assert isinstance(affine, dict)
    want = 1 / np.broadcast_to(constants["deviation"].ravel(), 3)
    assert affine["scale"] == pytest.approx(list(want))
    assert affine["shift"] == pytest.approx(list(-want * np.broadcast_to(constants["mean"].ravel(), 3)))


def test_channels_last_input(tmp_path: Path) -> None:
    """tf2onnx keeps the input of TensorFlow and transposes inside."""
    constants = convolution() | {"mean": np.asarray([0.4, 0.5, 0.6], np.float32)}
    nodes = [
        node("Sub", ["x", "mean"], "s"),
        node("Transpose", ["s"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], "c", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Transpose", ["c"], "l", perm=[0, 2, 3, 1]),
        node("ReduceMean", ["l"], "y", axes=[1, 2], keepdims=0),
    ]
    graph = check(model(nodes, constants, shape=(1, 12, 12, 3)), tmp_path)
    assert kinds(graph) == ["Conv2d", "GlobalAveragePool"]
    assert graph.meta["input_layout"] == "NHWC"
    assert graph.meta["input_affine"] == {
        "scale": [1.0, 1.0, 1.0],
        "shift": pytest.approx([-0.4, -0.5, -0.6]),
    }


def test_shapes_computed_in_the_model(tmp_path: Path) -> None:
    """Shape, Slice, Concat and Cast in front of a reshape, as Paddle and PyTorch export it."""
    constants = convolution() | {
        "from": np.asarray([0], np.int64),
        "to": np.asarray([1], np.int64),
        "rest": np.asarray([-1], np.int64),
    }
    nodes = [
        CONV,
        node("GlobalAveragePool", ["c"], "p"),
        node("Shape", ["p"], "s"),
        node("Cast", ["s"], "s32", to=TensorProto.INT32),
        node("Slice", ["s32", "from", "to"], "b32"),
        node("Cast", ["b32"], "batch", to=TensorProto.INT64),
        node("Concat", ["batch", "rest"], "target", axis=0),
        node("Reshape", ["p", "target"], "y"),
    ]
    graph = check(model(nodes, constants, shape=("N", 3, "H", "W")), tmp_path, input_shape=(3, 10, 14))
    assert graph.tensor("input").shape == (10, 14, 3)


def test_a_tensor_added_to_itself(tmp_path: Path) -> None:
    graph = check(
        model([CONV, node("Add", ["c", "c"], "d"), node("Relu", ["d"], "y")], convolution()), tmp_path
    )
    assert kinds(graph) == ["Conv2d", "clip"], "twice a convolution is a convolution"


@pytest.mark.parametrize("operator", ["Mul", "Sub", "Div"])
def test_other_arithmetic_of_a_tensor_and_itself(operator: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([CONV, node(operator, ["c", "c"], "y")], convolution()).SerializeToString())
    with pytest.raises(Mnv3cError, match=rf"node '{operator}_y' \({operator}\): \w+ of a tensor and itself"):
        load(str(path))
