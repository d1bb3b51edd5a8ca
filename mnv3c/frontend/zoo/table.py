"""The architectures: Tables 1 and 2 of Howard et al. 2019, "Searching for MobileNetV3"."""

from __future__ import annotations

from dataclasses import dataclass, replace

RE, HS = "relu", "hard_swish"


@dataclass(frozen=True)
class Block:
    """One row ``bneck``: expand 1x1, depthwise, squeeze-and-excite, project 1x1.

    Attributes:
        kernel: of the depthwise convolution.
        expansion: channels between expand and project; the first block has no expand.
        out: channels after the projection.
        se: squeeze-and-excite behind the depthwise convolution.
        nonlinearity: ``relu`` or ``hard_swish``, after expand and after depthwise.
        stride: of the depthwise convolution.
    """

    kernel: int
    expansion: int
    out: int
    se: bool
    nonlinearity: str
    stride: int


@dataclass(frozen=True)
class Architecture:
    """A column of tables: stem, blocks, last 1x1 convolution, head.

    Attributes:
        stem: channels of the first convolution (3x3, stride 2).
        last: channels of the last convolution (1x1, before the pool).
        head: width of the fully connected layer before the classifier.
        nonlinearity: of stem, last convolution and head.
    """

    stem: int
    blocks: tuple[Block, ...]
    last: int
    head: int
    nonlinearity: str = HS


_LARGE = Architecture(
    stem=16,
    blocks=(
        #     k  exp  out  SE     NL  s
        Block(3, 16, 16, False, RE, 1),
        Block(3, 64, 24, False, RE, 2),
        Block(3, 72, 24, False, RE, 1),
        Block(5, 72, 40, True, RE, 2),
        Block(5, 120, 40, True, RE, 1),
        Block(5, 120, 40, True, RE, 1),
        Block(3, 240, 80, False, HS, 2),
        Block(3, 200, 80, False, HS, 1),
        Block(3, 184, 80, False, HS, 1),
        Block(3, 184, 80, False, HS, 1),
        Block(3, 480, 112, True, HS, 1),
        Block(3, 672, 112, True, HS, 1),
        Block(5, 672, 160, True, HS, 2),
        Block(5, 960, 160, True, HS, 1),
        Block(5, 960, 160, True, HS, 1),
    ),
    last=960,
    head=1280,
)

# Table 2 ticks SE at the last 1x1 convolution too. No published implementation has it (TensorFlow, Keras,
# torchvision, timm), the published weights do not, and 2.5 M parameters only come out without it.
_SMALL = Architecture(
    stem=16,
    blocks=(
        #     k  exp  out  SE     NL  s
        Block(3, 16, 16, True, RE, 2),
        Block(3, 72, 24, False, RE, 2),
        Block(3, 88, 24, False, RE, 1),
        Block(5, 96, 40, True, HS, 2),
        Block(5, 240, 40, True, HS, 1),
        Block(5, 240, 40, True, HS, 1),
        Block(5, 120, 48, True, HS, 1),
        Block(5, 144, 48, True, HS, 1),
        Block(5, 288, 96, True, HS, 2),
        Block(5, 576, 96, True, HS, 1),
        Block(5, 576, 96, True, HS, 1),
    ),
    last=576,
    head=1024,
)


def _minimalistic(a: Architecture) -> Architecture:
    """3x3 only, no SE, ReLU instead of h-swish: for hardware where those are slow."""
    blocks = tuple(replace(b, kernel=3, se=False, nonlinearity=RE) for b in a.blocks)
    return replace(a, blocks=blocks, nonlinearity=RE)


ARCHITECTURES = {
    "mobilenet_v3_large": _LARGE,
    "mobilenet_v3_small": _SMALL,
    "mobilenet_v3_large_minimalistic": _minimalistic(_LARGE),
    "mobilenet_v3_small_minimalistic": _minimalistic(_SMALL),
}


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never down by more than a tenth.

    The rule of the TensorFlow and PyTorch implementations of MobileNet.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def squeeze_channels(expansion: int) -> int:
    """Width of the SE bottleneck: a quarter of the expansion (section 5.3)."""
    return make_divisible(expansion // 4)


def scale_width(a: Architecture, width: float) -> Architecture:
    """Apply the width multiplier as TensorFlow does, which gives the paper's figures for 0.75.

    Outputs of blocks are scaled; an expansion keeps its ratio to the (scaled and rounded) input of its
    block; the last convolution keeps its ratio of six to the last block; the head only grows.
    """
    if width == 1.0:
        return a
    stem = make_divisible(a.stem * width)
    blocks: list[Block] = []
    for i, b in enumerate(a.blocks):
        inputs = blocks[-1].out if blocks else stem
        ratio = b.expansion / (a.blocks[i - 1].out if i else a.stem)
        blocks.append(replace(b, expansion=make_divisible(inputs * ratio), out=make_divisible(b.out * width)))
    last = make_divisible(blocks[-1].out * a.last / a.blocks[-1].out)
    head = make_divisible(a.head * width) if width > 1.0 else a.head
    return Architecture(stem, tuple(blocks), last, head, a.nonlinearity)
