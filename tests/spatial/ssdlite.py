"""SSDLite on MobileNetV2 written down a second time, as an ONNX model that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.family import V2

State = dict[str, np.ndarray]
# Channels of the six maps: the expansion of block 13, the last convolution, four extra maps.
MAPS = (576, 1280, 512, 256, 256, 128)
ANCHORS = (3, 6, 6, 6, 6, 6)


def shapes(classes: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    yield "stem", (32, 3, 3, 3)
    for i, (inputs, kernel, expanded, out, *_) in enumerate(V2):
        if expanded != inputs:
            yield f"block{i}.expand", (expanded, inputs, 1, 1)
        yield f"block{i}.depthwise", (expanded, 1, kernel, kernel)
        yield f"block{i}.project", (out, expanded, 1, 1)
    yield "last", (1280, 320, 1, 1)
    for i, out in enumerate(MAPS[2:]):
        yield f"extra{i}.squeeze", (out // 2, MAPS[i + 1], 1, 1)
        yield f"extra{i}.depthwise", (out // 2, 1, 3, 3)
        yield f"extra{i}.expand", (out, out // 2, 1, 1)
    for i, (channels, each) in enumerate(zip(MAPS, ANCHORS, strict=True)):
        for head, numbers in (("box", 4), ("score", classes + 1)):
            yield f"{head}{i}.depthwise", (channels, 1, 3, 3)
            yield f"{head}{i}.project", (each * numbers, channels, 1, 1)


def random_state(classes: int) -> State:
    rng = np.random.default_rng(0)
    state: State = {}
    for layer, weight in shapes(classes):
        state[f"{layer}.weight"] = rng.normal(0, 1.7 / np.sqrt(np.prod(weight[1:])), weight)
        state[f"{layer}.bias"] = rng.normal(0, 0.1, weight[0])
    return {k: v.astype(np.float32) for k, v in state.items()}


def onnx_model(state: State, size: int) -> onnx.ModelProto:
    """Symmetric padding; outputs are the codes of every map, then the logits of every map."""
    nodes: list[onnx.NodeProto] = []

    def emit(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def conv(x: str, layer: str, *, act: bool = True, stride: int = 1) -> str:
        weight = state[f"{layer}.weight"]
        groups = weight.shape[0] if layer.endswith("depthwise") else 1
        fields = {"strides": [stride] * 2, "pads": [weight.shape[2] // 2] * 4, "group": groups}
        x = emit("Conv", x, f"{layer}.weight", f"{layer}.bias", **fields)
        return emit("Clip", x, "zero", "six") if act else x

    x, maps = conv("x", "stem", stride=2), []
    for i, (inputs, _, expanded, out, stride, *_) in enumerate(V2):
        entry = x
        if expanded != inputs:
            x = conv(x, f"block{i}.expand")
        if i == 13:
            maps.append(x)
        x = conv(x, f"block{i}.depthwise", stride=stride)
        x = conv(x, f"block{i}.project", act=False)
        x = emit("Add", x, entry) if stride == 1 and inputs == out else x
    maps.append(conv(x, "last"))
    for i in range(4):
        x = conv(conv(maps[-1], f"extra{i}.squeeze"), f"extra{i}.depthwise", stride=2)
        maps.append(conv(x, f"extra{i}.expand"))
    outputs = [
        conv(conv(source, f"{head}{i}.depthwise"), f"{head}{i}.project", act=False)
        for head in ("box", "score")
        for i, source in enumerate(maps)
    ]
    constants = state | {"zero": np.float32(0), "six": np.float32(6)}
    graph = helper.make_graph(
        nodes,
        "ssdlite",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
