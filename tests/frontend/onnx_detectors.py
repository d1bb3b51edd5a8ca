"""Small ONNX detectors, written as exporters write them: arithmetic for the boxes, then NonMaxSuppression."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES = 32, 3
MAPS, EACH = ((8, 8), (4, 4)), (2, 3)


def anchors() -> np.ndarray:
    """``[N, 4]``: centre y and x, height, width, as shares of the image."""
    rows = []
    for (height, width), each in zip(MAPS, EACH, strict=True):
        for y in range(height):
            for x in range(width):
                for k in range(each):
                    rows.append([(y + 0.5) / height, (x + 0.5) / width, 0.4 / (k + 1), 0.3])
    return np.asarray(rows, np.float32)


class Model:
    """A model under construction. ``emit`` returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def emit(self, op: str, *inputs: str, count: int = 1, **attributes: object) -> str:
        names = [f"t{len(self.nodes)}" if i == 0 else f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"node{len(self.nodes)}", **attributes)
        )
        return names[0]

    def bytes(self, outputs: dict[str, int]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "detector",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())


def detector(
    form: str = "corners",
    *,
    pixels: bool = False,
    background: bool = False,
    scores_by: str = "Sigmoid",
    softmax_axis: int = -1,
    clip: bool = False,
    behind: str = "",
    most: int = 20,
    seed: int = 0,
) -> bytes:
    """A model with outputs ``boxes [1, N, 4]``, ``scores [1, C, N]``, ``selected [M, 3]``.

    Args:
        form: ``corners`` (y first, anchors of TensorFlow), ``centres`` (x first, ``center_point_box``) or
            ``xyxy`` (x first, heads split as torchvision's are).
        pixels: boxes are pixels.
        background: class 0 is cut off the scores.
        scores_by: ``Sigmoid``, ``Softmax`` (over the last axis, the classes) or nothing.
        clip: boxes are cut at the image's border.
        behind: an operator on the selected indices.
    """
    rng = np.random.default_rng(seed)
    m = Model()
    columns = CLASSES + int(background)
    heads = []
    for width, spread in ((4, 0.6), (columns, 1.5)):
        parts = []
        for (height, _), each in zip(MAPS, EACH, strict=True):
            stride = SIZE // height
            weight = rng.normal(0, spread / stride, (each * width, 3, stride, stride))
            bias = rng.normal(0, spread / 3, each * width)
            x = m.emit("Conv", "image", m.constant(weight), m.constant(bias), strides=[stride, stride])
            if form == "xyxy":
                x = m.emit("Reshape", x, m.constant([1, each, width, height, height], np.int64))
                x = m.emit("Transpose", x, perm=[0, 3, 4, 1, 2])
            else:
                x = m.emit("Transpose", x, perm=[0, 2, 3, 1])
            parts.append(m.emit("Reshape", x, m.constant([1, -1, width], np.int64)))
        heads.append(m.emit("Concat", *parts, axis=1))
    codes, scores = heads
    if scores_by:
        scores = m.emit(scores_by, scores, **({"axis": softmax_axis} if scores_by == "Softmax" else {}))
    if background:
        ends = (m.constant([1], np.int64), m.constant([columns], np.int64), m.constant([2], np.int64))
        scores = m.emit("Slice", scores, *ends)
    scores = m.emit("Transpose", scores, perm=[0, 2, 1])
    places = anchors() if form == "corners" else anchors()[:, [1, 0, 3, 2]]
    scale = np.float32(SIZE if pixels else 1)
    m.emit("Split", codes, axis=2, count=2)
    move, stretch = m.nodes[-1].output
    move = m.emit("Div", move, m.constant(10.0))
    move = m.emit(
        "Add", m.emit("Mul", move, m.constant(places[:, 2:] * scale)), m.constant(places[:, :2] * scale)
    )
    side = m.emit(
        "Mul", m.emit("Exp", m.emit("Mul", stretch, m.constant(0.2))), m.constant(places[:, 2:] * scale)
    )
    if form == "centres":
        boxes = m.emit("Concat", move, side, axis=2)
    else:
        half = m.emit("Mul", side, m.constant(0.5))
        boxes = m.emit("Concat", m.emit("Sub", move, half), m.emit("Add", move, half), axis=2)
    if clip:
        boxes = m.emit("Clip", boxes, m.constant(0.0), m.constant(1.0))
    least = 0.6 if scores_by == "Sigmoid" else 0.4
    limits = (m.constant([most], np.int64), m.constant([0.5]), m.constant([least]))
    center = {"center_point_box": 1} if form == "centres" else {}
    selected = m.emit("NonMaxSuppression", boxes, scores, *limits, **center)
    if behind:
        selected = m.emit(behind, selected)
    for name, tensor in (("boxes", boxes), ("scores", scores), ("selected", selected)):
        m.nodes.append(helper.make_node("Identity", [tensor], [name], name=f"out_{name}"))
    return m.bytes({"boxes": 1, "scores": 1, "selected": TensorProto.INT64})
