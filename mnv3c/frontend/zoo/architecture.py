"""How an architecture of the family is written down: stem, blocks, last convolution, head."""

from __future__ import annotations

from dataclasses import dataclass

RE, R6, HS = "relu", "relu6", "hard_swish"


@dataclass(frozen=True)
class Block:
    """One row ``bneck``: expand 1x1, depthwise, squeeze-and-excite, project 1x1.

    Attributes:
        kernel: of the depthwise convolution (of the expansion in a ``fused`` block).
        expansion: channels between expand and project; there is no expand convolution where they are
            the block's input channels.
        out: channels after the projection.
        se: squeeze-and-excite behind the depthwise convolution.
        nonlinearity: ``relu``, ``relu6`` or ``hard_swish``, after expand and after depthwise.
        stride: of the depthwise convolution (of the expansion in a ``fused`` block).
        kind: ``inverted`` (linear projection); ``separable`` (MobileNetV1: the projection has a
            non-linearity, and nothing goes round the block); ``fused`` (MobileNetEdgeTPU: one dense
            kernel x kernel convolution in place of expand and depthwise).
        residual: whether the input is added to the result where shapes allow it.
        dilation: of the depthwise convolution.
    """

    kernel: int
    expansion: int
    out: int
    se: bool
    nonlinearity: str
    stride: int
    kind: str = "inverted"
    residual: bool = True
    dilation: int = 1


@dataclass(frozen=True)
class Segmenter:
    """A segmentation head in place of pool and classifier.

    Lite R-ASPP (Howard et al. 2019, section 6.3 and Figure 10): one branch gated by the other, refined by a
    larger map. R-ASPP (Sandler et al. 2018, section 6.3): a 1x1 convolution beside the mean of the whole map,
    joined and convolved once more.

    Attributes:
        filters: channels of its two branches.
        lite: Lite R-ASPP; else R-ASPP.
        skip_stride: of Lite R-ASPP: how many times smaller than the input the map is that the logits are
            refined by: the depthwise output of the last block of that resolution.
        argmax: classes of all input pixels; else logits, at ``skip_stride`` or of the last map's size.
    """

    filters: int = 128
    lite: bool = True
    skip_stride: int = 8
    argmax: bool = True


@dataclass(frozen=True)
class Detector:
    """SSDLite (Sandler et al. 2018, section 6.2) in place of pool and classifier.

    Heads read C4, the expansion of the block that first reaches stride 32, C5, the last convolution, and
    extra maps behind it, each half as large. A head is a depthwise 3x3 convolution and a 1x1 one. Anchors
    are those of TensorFlow's object detection library for SSD.

    Attributes:
        extras: channels of the maps behind C5; half as many are inside.
        scales: of the anchors on the first and the last map, as shares of the image.
        ratios: width over height of the anchors; on the first map there are three of its own.
    """

    extras: tuple[int, ...] = (512, 256, 256, 128)
    scales: tuple[float, float] = (0.2, 0.95)
    ratios: tuple[float, ...] = (1.0, 2.0, 0.5, 3.0, 1.0 / 3.0)

    def anchors_a_pixel(self, index: int) -> int:
        """On the map of that number: each ratio, and a second square between this scale and the next."""
        return 3 if index == 0 else len(self.ratios) + 1


@dataclass(frozen=True)
class Architecture:
    """A column of tables: stem, blocks, last 1x1 convolution, head.

    Attributes:
        stem: channels of the first convolution (3x3, stride 2).
        last: channels of the last convolution (1x1, before the pool); 0 where there is none.
        head: width of the fully connected layer before the classifier; 0 where there is none.
        nonlinearity: of stem, last convolution and head.
        gate: what makes the SE gate of a number: ``hard_sigmoid`` or ``sigmoid``.
        squeeze_input: the SE bottleneck is a quarter of the block's input (MnasNet), not of its
            expansion (MobileNetV3).
        segmenter: of a segmentation network; ``None`` for a classifier.
        detector: of a detection network, likewise. Its classes are without the background.
        size: default height and width of the input.
        classes: default number of logits.
    """

    stem: int
    blocks: tuple[Block, ...]
    last: int
    head: int
    nonlinearity: str = HS
    gate: str = "hard_sigmoid"
    squeeze_input: bool = False
    segmenter: Segmenter | None = None
    detector: Detector | None = None
    size: tuple[int, int] = (224, 224)
    classes: int = 1000


def inputs(a: Architecture, block: int) -> int:
    """Channels that a block reads."""
    return a.blocks[block - 1].out if block else a.stem


def has_expand(a: Architecture, block: int) -> bool:
    """Whether a block widens its input before anything else."""
    return a.blocks[block].expansion != inputs(a, block)


def squeeze_channels(a: Architecture, block: int) -> int:
    """Width of the SE bottleneck: section 5.3 of MobileNetV3; section 4.1 of MnasNet."""
    if a.squeeze_input:
        return max(1, inputs(a, block) // 4)
    return make_divisible(a.blocks[block].expansion // 4)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never down by more than a tenth.

    The rule of the TensorFlow and PyTorch implementations of MobileNet.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def strides(a: Architecture) -> list[int]:
    """How many times smaller than the input each block's output is."""
    found, stride = [], 2
    for b in a.blocks:
        stride *= b.stride
        found.append(stride)
    return found


def skip_block(a: Architecture) -> int:
    """The block whose depthwise output refines a segmentation."""
    assert a.segmenter is not None
    wanted = a.segmenter.skip_stride
    return max(i for i, stride in enumerate(strides(a)) if stride == wanted)


def c4_block(a: Architecture) -> int:
    """The block whose expansion is the last map at stride 16."""
    return strides(a).index(32)
