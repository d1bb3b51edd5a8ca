"""Lite R-ASPP on MobileNetV3 written down a second time, as an ONNX model that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.published import LARGE, SMALL, SQUEEZES

State = dict[str, np.ndarray]
# Rows (in, kernel, expanded, out, SE, activation, stride, dilation) of the last stage, at output stride 16:
# half as many channels come out, the stride is gone, and what follows is dilated.
LAST_STAGE = {
    "large": [
        (112, 5, 672, 80, True, "HS", 1, 1),
        (80, 5, 480, 80, True, "HS", 1, 2),
        (80, 5, 480, 80, True, "HS", 1, 2),
    ],
    "small": [
        (48, 5, 288, 48, True, "HS", 1, 1),
        (48, 5, 288, 48, True, "HS", 1, 2),
        (48, 5, 288, 48, True, "HS", 1, 2),
    ],
}
# Number of the last block at an eighth of the input.
SKIP = {"large": 5, "small": 2}
LAST = {"large": 480, "small": 288}


def rows(variant: str) -> list[tuple[int, int, int, int, bool, str, int, int]]:
    table = LARGE if variant == "large" else SMALL
    return [(*row, 1) for row in table[:-3]] + LAST_STAGE[variant]


def squeezed(variant: str) -> list[int]:
    last = {"large": [168, 120, 120], "small": [72, 72, 72]}[variant]
    return SQUEEZES[variant][:-3] + last


def shapes(variant: str, classes: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    widths = iter(squeezed(variant))
    yield "stem", (16, 3, 3, 3)
    for i, (inputs, kernel, expanded, out, se, *_) in enumerate(rows(variant)):
        if expanded != inputs:
            yield f"block{i}.expand", (expanded, inputs, 1, 1)
        yield f"block{i}.depthwise", (expanded, 1, kernel, kernel)
        if se:
            width = next(widths)
            yield f"block{i}.squeeze", (width, expanded, 1, 1)
            yield f"block{i}.excite", (expanded, width, 1, 1)
        yield f"block{i}.project", (out, expanded, 1, 1)
    last, skip = LAST[variant], rows(variant)[SKIP[variant]][2]
    yield "last", (last, rows(variant)[-1][3], 1, 1)
    yield "branch", (128, last, 1, 1)
    yield "gate", (128, last, 1, 1)
    yield "high", (classes, 128, 1, 1)
    yield "low", (classes, skip, 1, 1)


def random_state(variant: str, classes: int = 6) -> State:
    rng = np.random.default_rng(0)
    state: State = {}
    for layer, weight in shapes(variant, classes):
        state[f"{layer}.weight"] = rng.normal(0, 1.6 / np.sqrt(np.prod(weight[1:])), weight)
        state[f"{layer}.bias"] = rng.normal(0, 0.1, weight[0])
    return {k: v.astype(np.float32) for k, v in state.items()}


def onnx_model(
    variant: str,
    state: State,
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    argmax: bool,
) -> onnx.ModelProto:
    """Symmetric padding; ``window`` and ``stride`` are those of the pool before the gate."""
    nodes: list[onnx.NodeProto] = []
    constants = dict(state)

    def emit(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def conv(x: str, layer: str, act: str = "", step: int = 1, dilation: int = 1) -> str:
        weight = state[f"{layer}.weight"]
        groups = weight.shape[0] if layer.endswith("depthwise") else 1
        pad = weight.shape[2] // 2 * dilation
        fields = {"strides": [step] * 2, "dilations": [dilation] * 2, "pads": [pad] * 4, "group": groups}
        x = emit("Conv", x, f"{layer}.weight", f"{layer}.bias", **fields)
        return emit({"HS": "HardSwish", "RE": "Relu"}[act], x) if act else x

    def resize(x: str, channels: int, height: int, width: int) -> str:
        name = f"size{len(nodes)}"
        constants[name] = np.asarray([1, channels, height, width], np.int64)
        fields = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        return emit("Resize", x, "", "", name, **fields)

    x, skip = conv("x", "stem", "HS", 2), ""
    for i, (inputs, _, expanded, out, se, act, step, dilation) in enumerate(rows(variant)):
        entry = x
        if expanded != inputs:
            x = conv(x, f"block{i}.expand", act)
        x = conv(x, f"block{i}.depthwise", act, step, dilation)
        skip = x if i == SKIP[variant] else skip
        if se:
            gate = conv(emit("GlobalAveragePool", x), f"block{i}.squeeze", "RE")
            gate = conv(gate, f"block{i}.excite")
            x = emit("Mul", x, emit("HardSigmoid", gate, alpha=1 / 6, beta=0.5))
        x = conv(x, f"block{i}.project")
        x = emit("Add", x, entry) if step == 1 and inputs == out else x
    x = conv(x, "last", "HS")
    classes = len(state["low.bias"])
    sixteenth, eighth = ([-(-n // s) for n in size] for s in (16, 8))
    pooled = emit("AveragePool", x, kernel_shape=window, strides=stride)
    gate = resize(emit("Sigmoid", conv(pooled, "gate")), 128, *sixteenth)
    x = resize(emit("Mul", conv(x, "branch", "RE"), gate), 128, *eighth)
    x = emit("Add", conv(x, "high"), conv(skip, "low"))
    if argmax:
        x = emit("ArgMax", resize(x, classes, *size), axis=1)
    graph = helper.make_graph(
        nodes,
        "lraspp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(x, TensorProto.INT64 if argmax else TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
