"""ONNX models of operators that move pixels, through Relax, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir import float_ops as f
from mnv3c.reference import floating

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32),
    "wt": RNG.normal(0, 0.5, (4, 2, 4, 3)).astype(np.float32),
    "bt": RNG.normal(0, 0.5, 2).astype(np.float32),
    "sizes": np.asarray([1, 4, 13, 9], np.int64),
    "twice": np.asarray([1, 1, 2, 2], np.float32),
    "one": np.asarray([1, 2], np.int64),
    "three": np.asarray([4, 6], np.int64),
    "axes": np.asarray([1, 3], np.int64),
    "parts": np.asarray([1, 3], np.int64),
    "none": np.zeros(0, np.float32),
    "pads": np.asarray([0, 0, 1, 0, 0, 0, 2, 3], np.int64),
    "w2": RNG.normal(0, 0.5, (3, 4, 2, 2)).astype(np.float32),
}
CONV = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])


def model(nodes: list[onnx.NodeProto], opset: int = 17, output: int = TensorProto.FLOAT) -> onnx.ModelProto:
    used = {i for n in nodes for i in n.input}
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 7])],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(v, k) for k, v in WEIGHTS.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


CASES: dict[str, tuple[list[onnx.NodeProto], type, int]] = {
    **{
        f"resize_{mode}_{coordinates}": (
            [
                CONV,
                node(
                    "Resize",
                    ["c", "", "", "sizes"],
                    ["y"],
                    mode=mode,
                    coordinate_transformation_mode=coordinates,
                    nearest_mode="floor",
                ),
            ],
            f.Resize,
            17,
        )
        for mode in ("linear", "nearest")
        for coordinates in ("align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel")
    },
    "resize_scales": ([CONV, node("Resize", ["c", "none", "twice"], ["y"], mode="linear")], f.Resize, 13),
    "resize_opset_10": ([CONV, node("Resize", ["c", "twice"], ["y"], mode="nearest")], f.Resize, 10),
    "upsample": ([CONV, node("Upsample", ["c", "twice"], ["y"], mode="linear")], f.Resize, 9),
    "argmax": ([CONV, node("ArgMax", ["c"], ["y"], axis=1)], f.ArgMax, 17),
    "argmax_flat": ([CONV, node("ArgMax", ["c"], ["y"], axis=1, keepdims=0)], f.ArgMax, 17),
    "concat": ([CONV, node("Relu", ["c"], ["r"]), node("Concat", ["c", "r"], ["y"], axis=1)], f.Concat, 17),
    "concat_rows": ([CONV, node("Concat", ["c", "c"], ["y"], axis=2)], f.Concat, 17),
    "pad": ([CONV, node("Pad", ["c", "pads"], ["p"]), node("Relu", ["p"], ["y"])], f.Spread, 17),
    "pad_at_the_end": ([CONV, node("Pad", ["c", "pads"], ["y"])], f.Spread, 17),
    "pad_twice": (
        [CONV, node("Pad", ["c", "pads"], ["p"]), node("Pad", ["p", "pads"], ["y"])],
        f.Spread,
        17,
    ),
    "pad_for_two": (
        [
            CONV,
            node("Pad", ["c", "pads"], ["p"]),
            node("Conv", ["p", "w2"], ["d"]),
            node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2]),
            node("Conv", ["m", "w2"], ["e"], pads=[0, 0, 1, 1]),
            node("Add", ["d", "e"], ["y"]),
        ],
        f.Spread,
        17,
    ),
    "slice": ([CONV, node("Slice", ["c", "one", "three", "axes"], ["y"])], f.Slice, 17),
    "split": (
        [CONV, node("Split", ["c", "parts"], ["a", "b"], axis=1), node("Relu", ["b"], ["y"])],
        f.Slice,
        17,
    ),
    "transposed": (
        [CONV, node("ConvTranspose", ["c", "wt", "bt"], ["y"], strides=[2, 2], pads=[1, 0, 2, 1])],
        f.TransposedConv2d,
        17,
    ),
    "output_padding": (
        [
            CONV,
            node(
                "ConvTranspose",
                ["c", "wt"],
                ["y"],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                output_padding=[1, 1],
            ),
        ],
        f.TransposedConv2d,
        17,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_is_what_onnxruntime_computes(case: str, tmp_path: Path) -> None:
    nodes, kind, opset = CASES[case]
    output = TensorProto.INT64 if kind is f.ArgMax else TensorProto.FLOAT
    proto = model(nodes, opset, output)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    graph = load(str(path))
    assert any(isinstance(n, kind) for n in graph)
    image = np.random.default_rng(1).normal(0, 1, (6, 7, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": image.transpose(2, 0, 1)[None]})
    got = floating.run(graph, {"input": image})[graph.outputs[0]]
    if want.ndim == 3:
        want = want[:, None]
    np.testing.assert_allclose(got, want[0].transpose(1, 2, 0), atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([CONV, node("Resize", ["c", "", "", "sizes"], ["y"], mode="cubic")], "mode cubic"),
        ([CONV, node("Slice", ["c", "one", "three", "axes", "parts"], ["y"])], r"steps \[1, 3\]"),
        ([CONV, node("ArgMax", ["c"], ["y"], axis=2)], "over the channels"),
        ([CONV, node("ArgMax", ["c"], ["y"], axis=1, select_last_index=1)], "select_last_index"),
        ([CONV, node("ConvTranspose", ["c", "wt"], ["y"], group=2)], "groups and dilation"),
    ],
)
def test_what_is_not_supported_is_named(nodes: list[onnx.NodeProto], says: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes), path)
    with pytest.raises(Mnv3cError, match=says):
        load(str(path))
