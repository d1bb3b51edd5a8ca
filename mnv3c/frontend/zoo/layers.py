"""The layers of a zoo network, by name, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.frontend.zoo.architecture import (
    Architecture,
    Detector,
    Segmenter,
    c4_block,
    has_expand,
    skip_block,
    squeeze_channels,
)


@dataclass(frozen=True)
class LayerShape:
    """A convolution of the network.

    Attributes:
        name: such as ``stem``, ``block3.expand``, ``block3.depthwise``, ``block3.squeeze``,
            ``block3.excite``, ``block3.project``, ``last``, ``head``, ``classifier``; blocks count from 0.
            A segmenter has ``branch``, ``gate``, ``high`` and ``low`` in place of the last two, a detector
            ``extra0.squeeze``, ``.depthwise``, ``.expand``, ``box0.depthwise``, ``.project``, ``score0...``.
        weight: ``[out, in / groups, kernel_h, kernel_w]``.
        batch_norm: whether trained checkpoints have a batch norm behind it.
    """

    name: str
    weight: tuple[int, int, int, int]
    batch_norm: bool

    @property
    def out(self) -> int:
        return self.weight[0]


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Statistics and affine of a batch norm, each ``[out]``."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Float32 weights ``[out, in / groups, kernel_h, kernel_w]`` with a bias ``[out]`` or a batch norm."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    batch_norm: BatchNorm | None = None


Weights = dict[str, LayerWeights]


def layer_shapes(a: Architecture, classes: int) -> list[LayerShape]:
    """Every convolution in execution order."""
    shapes = [LayerShape("stem", (a.stem, 3, 3, 3), True)]
    channels = a.stem
    for i, b in enumerate(a.blocks):
        name = f"block{i}"
        if has_expand(a, i):
            kernel = b.kernel if b.kind == "fused" else 1
            shapes.append(LayerShape(f"{name}.expand", (b.expansion, channels, kernel, kernel), True))
        if b.kind != "fused":
            shapes.append(LayerShape(f"{name}.depthwise", (b.expansion, 1, b.kernel, b.kernel), True))
        if b.se:
            squeezed = squeeze_channels(a, i)
            shapes.append(LayerShape(f"{name}.squeeze", (squeezed, b.expansion, 1, 1), False))
            shapes.append(LayerShape(f"{name}.excite", (b.expansion, squeezed, 1, 1), False))
        shapes.append(LayerShape(f"{name}.project", (b.out, b.expansion, 1, 1), True))
        channels = b.out
    if a.last:
        shapes.append(LayerShape("last", (a.last, channels, 1, 1), True))
        channels = a.last
    if a.segmenter is not None:
        return shapes + _segmenter_shapes(a, a.segmenter, channels, classes)
    if a.detector is not None:
        return shapes + _detector_shapes(a, a.detector, channels, classes)
    for name, width, batch_norm in (("head", a.head, False), ("classifier", classes, False)):
        if width:
            shapes.append(LayerShape(name, (width, channels, 1, 1), batch_norm))
            channels = width
    return shapes


def _segmenter_shapes(a: Architecture, s: Segmenter, channels: int, classes: int) -> list[LayerShape]:
    if not s.lite:
        return [
            LayerShape("branch", (s.filters, channels, 1, 1), True),
            LayerShape("pooled", (s.filters, channels, 1, 1), True),
            LayerShape("join", (s.filters, 2 * s.filters, 1, 1), True),
            LayerShape("classifier", (classes, s.filters, 1, 1), False),
        ]
    return [
        LayerShape("branch", (s.filters, channels, 1, 1), True),
        LayerShape("gate", (s.filters, channels, 1, 1), False),
        LayerShape("high", (classes, s.filters, 1, 1), False),
        LayerShape("low", (classes, a.blocks[skip_block(a)].expansion, 1, 1), False),
    ]


def _detector_shapes(a: Architecture, d: Detector, channels: int, classes: int) -> list[LayerShape]:
    shapes = []
    maps = [a.blocks[c4_block(a)].expansion, channels, *d.extras]
    for i, out in enumerate(d.extras):
        shapes += [
            LayerShape(f"extra{i}.squeeze", (out // 2, channels, 1, 1), True),
            LayerShape(f"extra{i}.depthwise", (out // 2, 1, 3, 3), True),
            LayerShape(f"extra{i}.expand", (out, out // 2, 1, 1), True),
        ]
        channels = out
    for i, channels in enumerate(maps):
        each = d.anchors_a_pixel(i)
        for head, outputs in (("box", 4 * each), ("score", (classes + 1) * each)):
            shapes += [
                LayerShape(f"{head}{i}.depthwise", (channels, 1, 3, 3), True),
                LayerShape(f"{head}{i}.project", (outputs, channels, 1, 1), False),
            ]
    return shapes
