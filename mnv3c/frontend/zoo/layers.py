"""The layers of a zoo network, by name, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.frontend.zoo.table import Architecture, squeeze_channels


@dataclass(frozen=True)
class LayerShape:
    """A convolution of the network.

    Attributes:
        name: such as ``stem``, ``block3.expand``, ``block3.depthwise``, ``block3.squeeze``,
            ``block3.excite``, ``block3.project``, ``last``, ``head``, ``classifier``; blocks count from 0.
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
        if has_expand(i):
            shapes.append(LayerShape(f"{name}.expand", (b.expansion, channels, 1, 1), True))
        shapes.append(LayerShape(f"{name}.depthwise", (depth(a, i), 1, b.kernel, b.kernel), True))
        if b.se:
            squeezed = squeeze_channels(depth(a, i))
            shapes.append(LayerShape(f"{name}.squeeze", (squeezed, depth(a, i), 1, 1), False))
            shapes.append(LayerShape(f"{name}.excite", (depth(a, i), squeezed, 1, 1), False))
        shapes.append(LayerShape(f"{name}.project", (b.out, depth(a, i), 1, 1), True))
        channels = b.out
    shapes.append(LayerShape("last", (a.last, channels, 1, 1), True))
    shapes.append(LayerShape("head", (a.head, a.last, 1, 1), False))
    shapes.append(LayerShape("classifier", (classes, a.head, 1, 1), False))
    return shapes


def has_expand(block: int) -> bool:
    """The first block expands by one, so it has no expand convolution."""
    return block > 0


def depth(a: Architecture, block: int) -> int:
    """Channels of the depthwise convolution of a block."""
    return a.blocks[block].expansion if has_expand(block) else a.stem
