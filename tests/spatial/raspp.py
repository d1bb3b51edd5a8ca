"""R-ASPP on MobileNetV2 written down a second time, as an ONNX model that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.family import V2

State = dict[str, np.ndarray]
FILTERS = 256


def shapes(classes: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    yield "stem", (32, 3, 3, 3)
    for i, (inputs, kernel, expanded, out, *_) in enumerate(V2):
        if expanded != inputs:
            yield f"block{i}.expand", (expanded, inputs, 1, 1)
        yield f"block{i}.depthwise", (expanded, 1, kernel, kernel)
        yield f"block{i}.project", (out, expanded, 1, 1)
    yield "branch", (FILTERS, 320, 1, 1)
    yield "pooled", (FILTERS, 320, 1, 1)
    yield "join", (FILTERS, 2 * FILTERS, 1, 1)
    yield "classifier", (classes, FILTERS, 1, 1)


def random_state(classes: int) -> State:
    rng = np.random.default_rng(0)
    state: State = {}
    for layer, weight in shapes(classes):
        state[f"{layer}.weight"] = rng.normal(0, 1.7 / np.sqrt(np.prod(weight[1:])), weight)
        state[f"{layer}.bias"] = rng.normal(0, 0.1, weight[0])
    return {k: v.astype(np.float32) for k, v in state.items()}


def onnx_model(state: State, size: tuple[int, int]) -> onnx.ModelProto:
    """Symmetric padding; logits at a sixteenth of the input."""
    nodes: list[onnx.NodeProto] = []

    def emit(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def conv(x: str, layer: str, *, act: str = "", stride: int = 1, dilation: int = 1) -> str:
        weight = state[f"{layer}.weight"]
        groups = weight.shape[0] if layer.endswith("depthwise") else 1
        pads = [weight.shape[2] // 2 * dilation] * 4
        fields = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads, "group": groups}
        x = emit("Conv", x, f"{layer}.weight", f"{layer}.bias", **fields)
        if act == "relu":
            return emit("Relu", x)
        return emit("Clip", x, "zero", "six") if act else x

    x = conv("x", "stem", act="relu6", stride=2)
    total = 2
    for i, (inputs, _, expanded, out, stride, *_) in enumerate(V2):
        entry = x
        # The stride from 16 to 32 is taken out; the blocks behind it are dilated.
        dilation = 2 if total == 32 else 1
        total *= stride
        step = 1 if total == 32 else stride
        if expanded != inputs:
            x = conv(x, f"block{i}.expand", act="relu6")
        x = conv(x, f"block{i}.depthwise", act="relu6", stride=step, dilation=dilation)
        x = conv(x, f"block{i}.project")
        x = emit("Add", x, entry) if stride == 1 and inputs == out else x
    pooled = conv(emit("GlobalAveragePool", x), "pooled", act="relu")
    wide = emit("Expand", pooled, "size")
    x = conv(emit("Concat", conv(x, "branch", act="relu"), wide, axis=1), "join", act="relu")
    x = conv(x, "classifier")
    constants: dict[str, np.ndarray] = {
        **state,
        "zero": np.float32(0),
        "six": np.float32(6),
        "size": np.asarray([1, FILTERS, *(-(-n // 16) for n in size)], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "raspp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
