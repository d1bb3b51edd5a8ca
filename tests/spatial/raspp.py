"""R-ASPP on MobileNetV2 written down a second time, as an ONNX model that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from tests.frontend.family import V2, Shape, State, Writer, state_of, trunk_shapes

FILTERS = 256


def shapes(classes: int) -> Iterator[Shape]:
    yield from trunk_shapes(V2)
    yield "branch", (FILTERS, 320, 1, 1)
    yield "pooled", (FILTERS, 320, 1, 1)
    yield "join", (FILTERS, 2 * FILTERS, 1, 1)
    yield "classifier", (classes, FILTERS, 1, 1)


def random_state(classes: int) -> State:
    return state_of(shapes(classes))


def onnx_model(state: State, size: tuple[int, int]) -> onnx.ModelProto:
    """Symmetric padding; logits at a sixteenth of the input."""
    w = Writer(state)
    x = w.conv("x", "stem", "relu6", 2)
    total = 2
    for i, (inputs, _, expanded, out, stride, *_) in enumerate(V2):
        entry = x
        # The stride from 16 to 32 is taken out; the blocks behind it are dilated.
        dilation = 2 if total == 32 else 1
        total *= stride
        step = 1 if total == 32 else stride
        if expanded != inputs:
            x = w.conv(x, f"block{i}.expand", "relu6")
        x = w.conv(x, f"block{i}.depthwise", "relu6", step, dilation)
        x = w.conv(x, f"block{i}.project")
        x = w.emit("Add", x, entry) if stride == 1 and inputs == out else x
    pooled = w.conv(w.emit("GlobalAveragePool", x), "pooled", "relu")
    wide = w.emit("Expand", pooled, "map_size")
    x = w.conv(w.emit("Concat", w.conv(x, "branch", "relu"), wide, axis=1), "join", "relu")
    x = w.conv(x, "classifier")
    map_size = np.asarray([1, FILTERS, *(-(-n // 16) for n in size)], np.int64)
    return w.model(size, {x: None}, map_size=map_size)
