"""Backbones for dense prediction: a narrower last stage, and dilation in place of strides."""

from __future__ import annotations

from dataclasses import replace

from mnv3c.frontend.zoo.architecture import Architecture, Block, Detector, Segmenter, inputs, strides

# Cityscapes' images at half size, and its classes.
_STREET, _STREET_CLASSES = (513, 1025), 19
_COCO_CLASSES = 90


def halve_last_stage(a: Architecture) -> Architecture:
    """Half of the channels between C4 and C5, as section 6.2 of MobileNetV3 has it for detection.

    The outputs of all blocks at stride 32 and the last convolution; expansions keep their ratios.
    """
    blocks: list[Block] = []
    for i, (b, stride) in enumerate(zip(a.blocks, strides(a), strict=True)):
        channels = blocks[-1].out if blocks else a.stem
        expansion = channels * b.expansion // inputs(a, i)
        blocks.append(replace(b, expansion=expansion, out=b.out // 2 if stride == 32 else b.out))
    return replace(a, blocks=tuple(blocks), last=a.last // 2)


def dilate(a: Architecture, output_stride: int) -> Architecture:
    """Strides beyond ``output_stride`` become dilations of the depthwise convolutions behind them.

    As TensorFlow does: the block that lost its stride keeps its own dilation.
    """
    blocks: list[Block] = []
    stride, rate = 2, 1
    for b in a.blocks:
        if stride * b.stride > output_stride:
            blocks.append(replace(b, stride=1, dilation=rate))
            rate *= b.stride
        else:
            stride *= b.stride
            blocks.append(replace(b, dilation=rate))
    return replace(a, blocks=tuple(blocks))


def detector(backbone: Architecture) -> Architecture:
    """SSDLite on a backbone, 320x320, for COCO."""
    return replace(
        backbone,
        head=0,
        detector=Detector(),
        size=(320, 320),
        classes=_COCO_CLASSES,
    )


def raspp(name: str, backbone: Architecture) -> dict[str, Architecture]:
    """R-ASPP on a backbone at output stride 16, giving classes or logits, by name.

    256 filters, on the output of the last block: the last convolution is left out.
    """
    dense = replace(dilate(backbone, 16), last=0, head=0, size=_STREET, classes=_STREET_CLASSES)
    heads = {"": True, "_logits": False}
    return {
        f"raspp_{name}{ending}": replace(dense, segmenter=Segmenter(filters=256, lite=False, argmax=argmax))
        for ending, argmax in heads.items()
    }


def segmenters(name: str, backbone: Architecture) -> dict[str, Architecture]:
    """Lite R-ASPP on a backbone, at output stride 16 and 8, giving classes or logits, by name."""
    found = {}
    for suffix, output_stride in (("", 16), ("_os8", 8)):
        narrow = dilate(halve_last_stage(backbone), output_stride)
        for ending, argmax in (("", True), ("_logits", False)):
            head = Segmenter(skip_stride=output_stride // 2, argmax=argmax)
            found[f"lraspp_{name}{suffix}{ending}"] = replace(
                narrow, head=0, segmenter=head, size=_STREET, classes=_STREET_CLASSES
            )
    return found
