"""SSDLite on MobileNetV2 written down a second time, as an ONNX model that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from tests.frontend.family import V2, Shape, State, Writer, state_of, trunk_shapes

# Channels of the six maps: the expansion of block 13, the last convolution, four extra maps.
MAPS = (576, 1280, 512, 256, 256, 128)
ANCHORS = (3, 6, 6, 6, 6, 6)


def shapes(classes: int) -> Iterator[Shape]:
    yield from trunk_shapes(V2)
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
    return state_of(shapes(classes))


def onnx_model(state: State, size: int) -> onnx.ModelProto:
    """Symmetric padding; outputs are the codes of every map, then the logits of every map."""
    w = Writer(state)
    x, maps = w.conv("x", "stem", "relu6", 2), []
    for i, (inputs, _, expanded, out, stride, *_) in enumerate(V2):
        entry = x
        if expanded != inputs:
            x = w.conv(x, f"block{i}.expand", "relu6")
        if i == 13:
            maps.append(x)
        x = w.conv(x, f"block{i}.depthwise", "relu6", stride)
        x = w.conv(x, f"block{i}.project")
        x = w.emit("Add", x, entry) if stride == 1 and inputs == out else x
    maps.append(w.conv(x, "last", "relu6"))
    for i in range(4):
        x = w.conv(w.conv(maps[-1], f"extra{i}.squeeze", "relu6"), f"extra{i}.depthwise", "relu6", 2)
        maps.append(w.conv(x, f"extra{i}.expand", "relu6"))
    outputs = [
        w.conv(w.conv(source, f"{head}{i}.depthwise", "relu6"), f"{head}{i}.project")
        for head in ("box", "score")
        for i, source in enumerate(maps)
    ]
    return w.model((size, size), dict.fromkeys(outputs))
