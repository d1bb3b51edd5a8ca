"""MobileNetV3 as torchvision builds it, written down a second time from its published configuration.

Independent of the zoo: another table, state dicts of random values under torchvision's and timm's names,
and an ONNX model made of such a state dict that onnxruntime can run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# in, kernel, expanded, out, SE, activation, stride
SMALL = [
    (16, 3, 16, 16, True, "RE", 2),
    (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1),
    (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 120, 48, True, "HS", 1),
    (48, 5, 144, 48, True, "HS", 1),
    (48, 5, 288, 96, True, "HS", 2),
    (96, 5, 576, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
]
LARGE = [
    (16, 3, 16, 16, False, "RE", 1),
    (16, 3, 64, 24, False, "RE", 2),
    (24, 3, 72, 24, False, "RE", 1),
    (24, 5, 72, 40, True, "RE", 2),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 3, 240, 80, False, "HS", 2),
    (80, 3, 200, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 480, 112, True, "HS", 1),
    (112, 3, 672, 112, True, "HS", 1),
    (112, 5, 672, 160, True, "HS", 2),
    (160, 5, 960, 160, True, "HS", 1),
    (160, 5, 960, 160, True, "HS", 1),
]
HEADS = {"small": 1024, "large": 1280}
# Squeeze widths of torchvision's pretrained models, in order of the blocks that have one.
SQUEEZES = {"small": [8, 24, 64, 64, 32, 40, 72, 144, 144], "large": [24, 32, 32, 120, 168, 168, 240, 240]}

State = dict[str, np.ndarray]


def shapes(variant: str, classes: int) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Key of a convolution, its weight shape and the key of its batch norm (or "bias" for a plain bias)."""
    table = SMALL if variant == "small" else LARGE
    squeezes = iter(SQUEEZES[variant])
    yield "features.0.0", (16, 3, 3, 3), "features.0.1"
    for i, (inputs, kernel, expanded, out, se, _, _) in enumerate(table, 1):
        j = 0
        if expanded != inputs:
            yield f"features.{i}.block.{j}.0", (expanded, inputs, 1, 1), f"features.{i}.block.{j}.1"
            j += 1
        yield f"features.{i}.block.{j}.0", (expanded, 1, kernel, kernel), f"features.{i}.block.{j}.1"
        j += 1
        if se:
            squeezed = next(squeezes)
            yield f"features.{i}.block.{j}.fc1", (squeezed, expanded, 1, 1), "bias"
            yield f"features.{i}.block.{j}.fc2", (expanded, squeezed, 1, 1), "bias"
            j += 1
        yield f"features.{i}.block.{j}.0", (out, expanded, 1, 1), f"features.{i}.block.{j}.1"
    last, n = table[-1][3] * 6, len(table) + 1
    yield f"features.{n}.0", (last, table[-1][3], 1, 1), f"features.{n}.1"
    yield "classifier.0", (HEADS[variant], last), "bias"
    yield "classifier.3", (classes, HEADS[variant]), "bias"


def torchvision_state(variant: str, classes: int = 10, seed: int = 0) -> State:
    """Random parameters under torchvision's names."""
    rng = np.random.default_rng(seed)
    state: State = {}
    for conv, weight, norm in shapes(variant, classes):
        fan_in = int(np.prod(weight[1:]))
        state[f"{conv}.weight"] = rng.normal(0, 1.4 / np.sqrt(fan_in), weight).astype(np.float32)
        if norm == "bias":
            state[f"{conv}.bias"] = rng.normal(0, 0.1, weight[0]).astype(np.float32)
            continue
        state[f"{norm}.weight"] = rng.uniform(0.7, 1.3, weight[0]).astype(np.float32)
        state[f"{norm}.bias"] = rng.normal(0, 0.2, weight[0]).astype(np.float32)
        state[f"{norm}.running_mean"] = rng.normal(0, 0.2, weight[0]).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, weight[0]).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.asarray(1, np.int64)
    return state


def timm_state(state: State, variant: str) -> State:
    """The same parameters under timm's names."""
    table = SMALL if variant == "small" else LARGE
    stages: list[tuple[int, int]] = []
    for i, block in enumerate(table):
        new = i > 0 and block[3] != table[i - 1][3]
        stage, index = stages[-1] if stages else (0, -1)
        stages.append((stage + 1, 0) if new else (stage, index + 1))

    def rename(key: str) -> str:
        key = re.sub(r"^features\.0\.0\.", "conv_stem.", re.sub(r"^features\.0\.1\.", "bn1.", key))
        key = re.sub(r"^classifier\.0\.", "conv_head.", re.sub(r"^classifier\.3\.", "classifier.", key))
        end = f"features.{len(table) + 1}."
        last = f"blocks.{stages[-1][0] + 1}.0."
        key = key.replace(f"{end}0.", f"{last}conv.").replace(f"{end}1.", f"{last}bn1.")
        match = re.match(r"features\.(\d+)\.block\.(\d+)\.(\w+)\.(\w+)$", key)
        if match is None:
            return key
        i, j, part, leaf = int(match[1]) - 1, int(match[2]), match[3], match[4]
        inputs, _, expanded, _, se, _, _ = table[i]
        names = ["conv_dw", *(["se"] if se else []), "conv_pw"]
        if expanded != inputs:
            names = ["conv_pw", "conv_dw", *(["se"] if se else []), "conv_pwl"]
        prefix = f"blocks.{stages[i][0]}.{stages[i][1]}"
        if names[j] == "se":
            return f"{prefix}.se.{'conv_reduce' if part == 'fc1' else 'conv_expand'}.{leaf}"
        if part == "0":
            return f"{prefix}.{names[j]}.{leaf}"
        return f"{prefix}.bn{[n for n in names if n != 'se'].index(names[j]) + 1}.{leaf}"

    renamed = {rename(k): v for k, v in state.items()}
    renamed["conv_head.weight"] = renamed["conv_head.weight"][:, :, None, None]
    return renamed


def onnx_model(state: State, variant: str, size: int, epsilon: float = 0.001) -> onnx.ModelProto:
    """The network of a torchvision state dict, batch norm and all."""
    nodes: list[onnx.NodeProto] = []

    def emit(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def conv(x: str, key: str, norm: str, activation: str = "", stride: int = 1, groups: int = 1) -> str:
        half = state[f"{key}.weight"].shape[2] // 2
        x = emit("Conv", x, f"{key}.weight", strides=[stride] * 2, pads=[half] * 4, group=groups)
        statistics = [f"{norm}.{s}" for s in ("weight", "bias", "running_mean", "running_var")]
        x = emit("BatchNormalization", x, *statistics, epsilon=epsilon)
        return emit({"HS": "HardSwish", "RE": "Relu"}[activation], x) if activation else x

    table = SMALL if variant == "small" else LARGE
    x = conv("x", "features.0.0", "features.0.1", "HS", 2)
    for i, (inputs, _, expanded, out, se, activation, stride) in enumerate(table, 1):
        entry, j = x, 0
        if expanded != inputs:
            x = conv(x, f"features.{i}.block.0.0", f"features.{i}.block.0.1", activation)
            j = 1
        prefix = f"features.{i}.block.{j}"
        x = conv(x, f"{prefix}.0", f"{prefix}.1", activation, stride, expanded)
        if se:
            prefix = f"features.{i}.block.{j + 1}"
            gate = emit("GlobalAveragePool", x)
            gate = emit("Relu", emit("Conv", gate, f"{prefix}.fc1.weight", f"{prefix}.fc1.bias"))
            gate = emit("Conv", gate, f"{prefix}.fc2.weight", f"{prefix}.fc2.bias")
            x = emit("Mul", emit("HardSigmoid", gate, alpha=1 / 6, beta=0.5), x)
            j += 1
        prefix = f"features.{i}.block.{j + 1}"
        x = conv(x, f"{prefix}.0", f"{prefix}.1")
        x = emit("Add", x, entry) if stride == 1 and inputs == out else x
    n = len(table) + 1
    x = emit("Flatten", emit("GlobalAveragePool", conv(x, f"features.{n}.0", f"features.{n}.1", "HS")))
    x = emit("HardSwish", emit("Gemm", x, "classifier.0.weight", "classifier.0.bias", transB=1))
    emit("Gemm", x, "classifier.3.weight", "classifier.3.bias", transB=1)
    nodes[-1].output[0] = "y"
    classes = state["classifier.3.bias"].shape[0]
    graph = helper.make_graph(
        nodes,
        "published",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(v, k) for k, v in state.items() if not k.endswith("tracked")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
