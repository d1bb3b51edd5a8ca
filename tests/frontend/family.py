"""The family before MobileNetV3, written down a second time: row by row, as an ONNX model.

Independent of the zoo: other tables (inputs, kernel, expanded channels, outputs, stride, squeeze width of
every block), and an ONNX model that onnxruntime can run, made of the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# in, kernel, expanded, out, stride, squeeze width (0: none), kind
Row = tuple[int, int, int, int, int, int, str]
State = dict[str, np.ndarray]
Shape = tuple[str, tuple[int, int, int, int]]  # layer, weight

V1: list[Row] = [
    (a, 3, a, b, s, 0, "separable")
    for a, b, s in (
        (32, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
        (512, 512, 1),
        (512, 512, 1),
        (512, 512, 1),
        (512, 512, 1),
        (512, 1024, 2),
        (1024, 1024, 1),
    )
]
V2: list[Row] = [
    (a, 3, e, b, s, 0, "inverted")
    for a, e, b, s in (
        (32, 32, 16, 1),
        (16, 96, 24, 2),
        (24, 144, 24, 1),
        (24, 144, 32, 2),
        (32, 192, 32, 1),
        (32, 192, 32, 1),
        (32, 192, 64, 2),
        (64, 384, 64, 1),
        (64, 384, 64, 1),
        (64, 384, 64, 1),
        (64, 384, 96, 1),
        (96, 576, 96, 1),
        (96, 576, 96, 1),
        (96, 576, 160, 2),
        (160, 960, 160, 1),
        (160, 960, 160, 1),
        (160, 960, 320, 1),
    )
]
MNASNET_A1: list[Row] = [
    (a, k, e, b, s, q, "inverted")
    for a, k, e, b, s, q in (
        (32, 3, 32, 16, 1, 0),
        (16, 3, 96, 24, 2, 0),
        (24, 3, 144, 24, 1, 0),
        (24, 5, 72, 40, 2, 6),
        (40, 5, 120, 40, 1, 10),
        (40, 5, 120, 40, 1, 10),
        (40, 3, 240, 80, 2, 0),
        (80, 3, 480, 80, 1, 0),
        (80, 3, 480, 80, 1, 0),
        (80, 3, 480, 80, 1, 0),
        (80, 3, 480, 112, 1, 20),
        (112, 3, 672, 112, 1, 28),
        (112, 5, 672, 160, 2, 28),
        (160, 5, 960, 160, 1, 40),
        (160, 5, 960, 160, 1, 40),
        (160, 3, 960, 320, 1, 0),
    )
]
MNASNET_B1: list[Row] = [
    (a, k, e, b, s, 0, "inverted")
    for a, k, e, b, s in (
        (32, 3, 32, 16, 1),
        (16, 3, 48, 24, 2),
        (24, 3, 72, 24, 1),
        (24, 3, 72, 24, 1),
        (24, 5, 72, 40, 2),
        (40, 5, 120, 40, 1),
        (40, 5, 120, 40, 1),
        (40, 5, 240, 80, 2),
        (80, 5, 480, 80, 1),
        (80, 5, 480, 80, 1),
        (80, 3, 480, 96, 1),
        (96, 3, 576, 96, 1),
        (96, 5, 576, 192, 2),
        (192, 5, 1152, 192, 1),
        (192, 5, 1152, 192, 1),
        (192, 5, 1152, 192, 1),
        (192, 3, 1152, 320, 1),
    )
]
EDGETPU: list[Row] = [
    (a, k, e, b, s, 0, kind)
    for a, k, e, b, s, kind in (
        (32, 1, 32, 16, 1, "fused"),
        (16, 3, 128, 32, 2, "fused"),
        (32, 3, 128, 32, 1, "fused"),
        (32, 3, 128, 32, 1, "fused"),
        (32, 3, 128, 32, 1, "fused"),
        (32, 3, 256, 48, 2, "fused"),
        (48, 3, 192, 48, 1, "fused"),
        (48, 3, 192, 48, 1, "fused"),
        (48, 3, 192, 48, 1, "fused"),
        (48, 3, 384, 96, 2, "inverted"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 3, 768, 96, 1, "no skip"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 3, 384, 96, 1, "inverted"),
        (96, 5, 768, 160, 2, "inverted"),
        (160, 5, 640, 160, 1, "inverted"),
        (160, 5, 640, 160, 1, "inverted"),
        (160, 5, 640, 160, 1, "inverted"),
        (160, 3, 1280, 192, 1, "inverted"),
    )
]
# Table, activation, channels of the last 1x1 convolution.
NETWORKS = {
    "mobilenet_v1": (V1, "relu6", 0),
    "mobilenet_v2": (V2, "relu6", 1280),
    "mnasnet_a1": (MNASNET_A1, "relu", 1280),
    "mnasnet_b1": (MNASNET_B1, "relu", 1280),
    "mobilenet_edgetpu": (EDGETPU, "relu", 1280),
}


def shapes(name: str, classes: int) -> Iterator[Shape]:
    """Layer and weight shape, in execution order."""
    table, _, last = NETWORKS[name]
    yield from trunk_shapes(table)
    if last:
        yield "last", (last, table[-1][3], 1, 1)
    yield "classifier", (classes, last or table[-1][3], 1, 1)


def trunk_shapes(table: list[Row]) -> Iterator[Shape]:
    """As ``shapes``, of the first layer and the blocks."""
    yield "stem", (32, 3, 3, 3)
    for i, (inputs, kernel, expanded, out, _, squeezed, kind) in enumerate(table):
        if expanded != inputs:
            size = kernel if kind == "fused" else 1
            yield f"block{i}.expand", (expanded, inputs, size, size)
        if kind != "fused":
            yield f"block{i}.depthwise", (expanded, 1, kernel, kernel)
        if squeezed:
            yield f"block{i}.squeeze", (squeezed, expanded, 1, 1)
            yield f"block{i}.excite", (expanded, squeezed, 1, 1)
        yield f"block{i}.project", (out, expanded, 1, 1)


def random_state(name: str, classes: int = 10, seed: int = 0) -> State:
    """Random weights and biases under the zoo's own names."""
    return state_of(shapes(name, classes), seed)


def state_of(layers: Iterable[Shape], seed: int = 0) -> State:
    """Random weights and biases of some layers."""
    rng = np.random.default_rng(seed)
    state: State = {}
    for layer, weight in layers:
        gain = 1.7 / np.sqrt(np.prod(weight[1:]))
        state[f"{layer}.weight"] = rng.normal(0, gain, weight).astype(np.float32)
        state[f"{layer}.bias"] = rng.normal(0, 0.1, weight[0]).astype(np.float32)
    return state


class Writer:
    """Writes a network as ONNX, layer by layer, with symmetric padding; the input is ``x``."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.nodes: list[onnx.NodeProto] = []

    def emit(self, op: str, *inputs: str, **attributes: object) -> str:
        """An operator; the name of its result."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, layer: str, act: str = "", stride: int = 1, dilation: int = 1) -> str:
        """The convolution of that name in the state, and an activation: relu, relu6 or sigmoid."""
        weight = self.state[f"{layer}.weight"]
        groups = weight.shape[0] if layer.endswith("depthwise") else 1
        pads = [weight.shape[2] // 2 * dilation] * 4
        fields = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads, "group": groups}
        x = self.emit("Conv", x, f"{layer}.weight", f"{layer}.bias", **fields)
        if act == "relu6":
            return self.emit("Clip", x, "zero", "six")
        return self.emit({"relu": "Relu", "sigmoid": "Sigmoid"}[act], x) if act else x

    def model(
        self,
        size: Sequence[int],
        outputs: Mapping[str, Sequence[int] | None],
        opset: int = 17,
        **constants: np.ndarray,
    ) -> onnx.ModelProto:
        """The model of what was written.

        Args:
            size: height and width of the input.
            outputs: names to shapes, where these are told.
            constants: beside the state.
        """
        values = {**self.state, "zero": np.float32(0), "six": np.float32(6), **constants}
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def onnx_model(name: str, state: State, size: int) -> onnx.ModelProto:
    """The network of such parameters; symmetric padding, input ``x`` ``[1, 3, size, size]``."""
    table, activation, last = NETWORKS[name]
    w = Writer(state)
    x = w.conv("x", "stem", activation, 2)
    for i, (inputs, _, expanded, out, stride, squeezed, kind) in enumerate(table):
        entry = x
        if expanded != inputs:
            x = w.conv(x, f"block{i}.expand", activation, stride if kind == "fused" else 1)
        if kind != "fused":
            x = w.conv(x, f"block{i}.depthwise", activation, stride)
        if squeezed:
            gate = w.conv(w.emit("GlobalAveragePool", x), f"block{i}.squeeze", "relu")
            x = w.emit("Mul", x, w.conv(gate, f"block{i}.excite", "sigmoid"))
        x = w.conv(x, f"block{i}.project", activation if kind == "separable" else "")
        if kind in ("inverted", "fused") and stride == 1 and inputs == out:
            x = w.emit("Add", x, entry)
    if last:
        x = w.conv(x, "last", activation)
    x = w.emit("Flatten", w.conv(w.emit("GlobalAveragePool", x), "classifier"))
    return w.model((size, size), {x: [1, len(state["classifier.bias"])]}, opset=13)


def with_batch_norm(state: State, names: dict[str, tuple[str, str]], seed: int = 0) -> State:
    """Every layer's weight under a published name, its bias as a batch norm that does the same.

    Args:
        names: layer to the names of its convolution and of its batch norm ("" for a plain bias).
    """
    rng = np.random.default_rng(seed)
    result: State = {}
    for layer, (conv, norm) in names.items():
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        if not norm:
            result |= {f"{conv}.weight": weight[:, :, 0, 0], f"{conv}.bias": bias}
            continue
        variance = rng.uniform(0.5, 1.5, len(bias)).astype(np.float32)
        mean, gamma = rng.normal(0, 0.2, (2, len(bias))).astype(np.float32)
        gain = np.abs(gamma) / np.sqrt(variance + np.float32(1e-5))
        result |= {
            f"{conv}.weight": weight / gain[:, None, None, None],
            f"{norm}.weight": np.abs(gamma),
            f"{norm}.bias": bias + mean * gain,
            f"{norm}.running_mean": mean,
            f"{norm}.running_var": variance,
        }
    return result
