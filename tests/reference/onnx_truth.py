"""One-operator ONNX models run by onnxruntime: a truth that is not ours."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def run_node(op: str, inputs: list[np.ndarray], opset: int = 17, **attributes: object) -> np.ndarray:
    """Run one float operator; ``inputs[0]`` is fed, the rest are initialisers."""
    names = [f"i{k}" for k in range(len(inputs))]
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("i0", TensorProto.FLOAT, inputs[0].shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in zip(names[1:], inputs[1:], strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"i0": inputs[0]})[0]


def to_nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None].astype(np.float32))


def to_hwc(x: np.ndarray) -> np.ndarray:
    return x[0].transpose(1, 2, 0)


def convolve(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: tuple[int, int],
    pad: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> np.ndarray:
    """onnxruntime's float convolution of ``(H, W, C)`` by ``[out, kh, kw, in / groups]``."""
    oihw = np.ascontiguousarray(weight.transpose(0, 3, 1, 2)).astype(np.float32)
    y = run_node(
        "Conv",
        [to_nchw(x), oihw, bias.astype(np.float32)],
        strides=list(stride),
        pads=list(pad),
        dilations=list(dilation),
        group=groups,
    )
    return to_hwc(y)
