"""Attributes of ONNX nodes as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.qdq.reader import Model, NodeInfo
from mnv3c.frontend.quantized.values import Window
from mnv3c.ir.graph import Shape


def convolution_window(node: NodeInfo, shape: Shape, kernel: Sequence[int]) -> Window:
    """Stride, padding and dilation of a convolution or a pool.

    Args:
        shape: of the input.
        kernel: height and width.

    Raises:
        Mnv3cError: they are not two-dimensional or not in range.
    """
    stride = _pair(node, "strides")
    dilation = _pair(node, "dilations")
    if min(*stride, *dilation, *kernel) < 1 or node.attribute("ceil_mode", 0):
        raise Mnv3cError("has a stride, dilation, kernel or ceil_mode that is not supported", node.place)
    auto = node.attribute("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    if auto in ("NOTSET", ""):
        pads = tuple(int(p) for p in node.attribute("pads", (0, 0, 0, 0)))
        if len(pads) != 4 or min(pads) < 0:
            raise Mnv3cError(f"has padding {list(pads)[:8]}", node.place)
        return Window(stride, (pads[0], pads[1], pads[2], pads[3]), dilation)
    if auto == "VALID":
        return Window(stride, (0, 0, 0, 0), dilation)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise Mnv3cError(f"has auto_pad {auto}", node.place)
    before, after = [], []
    for size, k, s, d in zip(shape[:2], kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return Window(stride, (before[0], before[1], after[0], after[1]), dilation)


def clip_bounds(node: NodeInfo, model: Model) -> tuple[float, float] | None:
    """What ``Relu`` or ``Clip`` clamps to; ``None`` for another operator."""
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op != "Clip":
        return None
    bounds = [-math.inf, math.inf]
    for i, name in enumerate(("min", "max")):
        if name in node.attributes:
            bounds[i] = float(node.attributes[name])
        if len(node.inputs) > i + 1 and node.inputs[i + 1]:
            array = model.constants.get(node.inputs[i + 1])
            if array is None or array.size != 1:
                raise Mnv3cError("has a bound that is not a constant", node.place)
            bounds[i] = float(np.ravel(array)[0])
    if math.isnan(bounds[0]) or math.isnan(bounds[1]) or bounds[0] > bounds[1]:
        raise Mnv3cError(f"clamps to {bounds}", node.place)
    return bounds[0], bounds[1]


def axes(node: NodeInfo, model: Model) -> list[int]:
    """The axes of a reduction, from its attribute or its second input."""
    if len(node.inputs) > 1 and node.inputs[1]:
        array = model.constants.get(node.inputs[1])
        return [] if array is None else [int(a) for a in np.ravel(array)]
    return [int(a) for a in node.attribute("axes", ())]


def _pair(node: NodeInfo, name: str) -> tuple[int, int]:
    values = tuple(int(v) for v in node.attribute(name, (1, 1)))
    if len(values) != 2:
        raise Mnv3cError(
            f"has {name} {list(values)[:8]}; two-dimensional convolutions are supported", node.place
        )
    return values[0], values[1]
