"""The architectures: Tables 1 and 2 of Howard et al. 2019, "Searching for MobileNetV3"."""

from __future__ import annotations

from dataclasses import replace

from mnv3c.frontend.zoo.ancestors import ANCESTORS
from mnv3c.frontend.zoo.architecture import HS, RE, Architecture, Block, inputs, make_divisible
from mnv3c.frontend.zoo.dense import detector, halve_last_stage, raspp, segmenters

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
    **ANCESTORS,
    **segmenters("mobilenet_v3_large", _LARGE),
    **segmenters("mobilenet_v3_small", _SMALL),
    **raspp("mobilenet_v2", ANCESTORS["mobilenet_v2"]),
    "ssdlite_mobilenet_v3_large": detector(halve_last_stage(_LARGE)),
    "ssdlite_mobilenet_v3_small": detector(halve_last_stage(_SMALL)),
    "ssdlite_mobilenet_v2": detector(ANCESTORS["mobilenet_v2"]),
}


def scale_width(a: Architecture, width: float) -> Architecture:
    """Apply the width multiplier as TensorFlow does, which gives the paper's figures for 0.75.

    Outputs of blocks are scaled; an expansion keeps its ratio to the (scaled and rounded) input of its
    block; the head only grows. The last convolution keeps its ratio to the last block where a head
    follows it (MobileNetV3); where it feeds the classifier it only grows (MobileNetV2, section 5).
    """
    if width == 1.0:
        return a
    stem = make_divisible(a.stem * width)
    blocks: list[Block] = []
    for i, b in enumerate(a.blocks):
        channels = blocks[-1].out if blocks else stem
        expansion = make_divisible(channels * (b.expansion / inputs(a, i)))
        blocks.append(replace(b, expansion=expansion, out=make_divisible(b.out * width)))
    growth = max(width, 1.0)
    last = make_divisible(blocks[-1].out * a.last / a.blocks[-1].out) if a.last else 0
    if not a.head and a.segmenter is None and a.detector is None:
        last = make_divisible(a.last * growth) if a.last else 0
    head = make_divisible(a.head * growth) if a.head else 0
    return replace(a, stem=stem, blocks=tuple(blocks), last=last, head=head)
