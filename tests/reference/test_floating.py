"""The float executor against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.reference import floating
from tests.reference.onnx_truth import convolve, run_node, to_hwc, to_nchw

RNG = np.random.default_rng(7)


def run_one(node: Node, *inputs: np.ndarray) -> np.ndarray:
    tensors = {n: Tensor(n, v.shape) for n, v in zip(node.inputs, inputs, strict=True)}
    tensors[node.output] = Tensor(node.output, (1, 1, 1))  # the executor does not look at it
    graph = Graph("one", (node,), tensors, node.inputs, (node.output,))
    return floating.run(graph, dict(zip(node.inputs, inputs, strict=True)))[node.output]


def image(*shape: int) -> np.ndarray:
    return RNG.normal(0, 3, shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 0, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_convolution(
    groups: int, stride: tuple[int, int], pad: tuple[int, int, int, int], dilation: tuple[int, int]
) -> None:
    x, weight, bias = (
        image(9, 8, 6),
        image(12 if groups < 6 else 6, 3, 3, 6 // groups),
        image(12 if groups < 6 else 6),
    )
    node = f.Conv2d("c", ("x",), ("y",), weight, bias, stride, pad, dilation, groups)
    want = convolve(x, weight, bias, stride, pad, dilation, groups)
    np.testing.assert_allclose(run_one(node, x), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("node", "op", "attributes"),
    [
        (f.Activation("a", ("x",), ("y",), "clip", low=0.0), "Relu", {}),
        (f.Activation("a", ("x",), ("y",), "hard_swish"), "HardSwish", {}),
        (
            f.Activation("a", ("x",), ("y",), "hard_sigmoid", slope=0.2),
            "HardSigmoid",
            {"alpha": 0.2, "beta": 0.5},
        ),
        (f.Activation("a", ("x",), ("y",), "sigmoid"), "Sigmoid", {}),
        (f.GlobalAveragePool("a", ("x",), ("y",)), "GlobalAveragePool", {}),
        (f.Softmax("a", ("x",), ("y",)), "Softmax", {"axis": 1}),
        (
            f.Pool("a", ("x",), ("y",), "max", (3, 2), (2, 2), (1, 0, 1, 1)),
            "MaxPool",
            {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
        ),
        (
            f.Pool("a", ("x",), ("y",), "average", (3, 3), (2, 1), (1, 1, 1, 1)),
            "AveragePool",
            {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]},
        ),
        (
            f.Pool("a", ("x",), ("y",), "average", (3, 3), (2, 1), (1, 1, 1, 1), count_include_pad=True),
            "AveragePool",
            {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_operator(node: Node, op: str, attributes: dict[str, object]) -> None:
    x = image(7, 9, 5)
    want = to_hwc(run_node(op, [to_nchw(x)], **attributes))
    np.testing.assert_allclose(run_one(node, x), want, rtol=1e-5, atol=1e-5)


def test_gate_is_broadcast_over_the_map() -> None:
    x, gate = image(4, 5, 6), image(1, 1, 6)
    got = run_one(f.Multiply("m", ("x", "g"), ("y",)), x, gate)
    np.testing.assert_array_equal(got[2, 3], x[2, 3] * gate[0, 0])


def test_wrong_input_shape_is_named() -> None:
    graph = Graph("g", (), {"x": Tensor("x", (2, 2, 3))}, ("x",), ("x",))
    with pytest.raises(ValueError, match="input x"):
        floating.run(graph, {"x": np.zeros((2, 3, 3), np.float32)})
