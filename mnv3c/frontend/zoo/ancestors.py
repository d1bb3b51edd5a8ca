"""Networks before and beside MobileNetV3, each from its paper's table.

MobileNetV1: Howard et al. 2017, Table 1. MobileNetV2: Sandler et al. 2018, Table 2. MnasNet: Tan et al.
2019, Figure 7 (A1) and its variant without SE (B1). MobileNetEdgeTPU: the definition in TensorFlow's
model garden, which has no table in a paper.
"""

from __future__ import annotations

from mnv3c.frontend.zoo.architecture import R6, RE, Architecture, Block

# (channels, stride) of each depthwise separable block.
_V1 = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# (kind, expansion factor t, kernel, channels c, repeats n, stride s of the first, SE) of each stage.
_Stage = tuple[str, int, int, int, int, int, bool]
_V2: tuple[_Stage, ...] = (
    ("inverted", 1, 3, 16, 1, 1, False),
    ("inverted", 6, 3, 24, 2, 2, False),
    ("inverted", 6, 3, 32, 3, 2, False),
    ("inverted", 6, 3, 64, 4, 2, False),
    ("inverted", 6, 3, 96, 3, 1, False),
    ("inverted", 6, 3, 160, 3, 2, False),
    ("inverted", 6, 3, 320, 1, 1, False),
)
_MNASNET_A1: tuple[_Stage, ...] = (
    ("inverted", 1, 3, 16, 1, 1, False),
    ("inverted", 6, 3, 24, 2, 2, False),
    ("inverted", 3, 5, 40, 3, 2, True),
    ("inverted", 6, 3, 80, 4, 2, False),
    ("inverted", 6, 3, 112, 2, 1, True),
    ("inverted", 6, 5, 160, 3, 2, True),
    ("inverted", 6, 3, 320, 1, 1, False),
)
_MNASNET_B1: tuple[_Stage, ...] = (
    ("inverted", 1, 3, 16, 1, 1, False),
    ("inverted", 3, 3, 24, 3, 2, False),
    ("inverted", 3, 5, 40, 3, 2, False),
    ("inverted", 6, 5, 80, 3, 2, False),
    ("inverted", 6, 3, 96, 2, 1, False),
    ("inverted", 6, 5, 192, 4, 2, False),
    ("inverted", 6, 3, 320, 1, 1, False),
)


def _separable() -> tuple[Block, ...]:
    blocks, channels = [], 32
    for out, stride in _V1:
        blocks.append(Block(3, channels, out, False, R6, stride, "separable", residual=False))
        channels = out
    return tuple(blocks)


def _stages(stages: tuple[_Stage, ...], nonlinearity: str) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for kind, factor, kernel, out, repeats, stride, se in stages:
        for i in range(repeats):
            expansion = (blocks[-1].out if blocks else 32) * factor
            blocks.append(Block(kernel, expansion, out, se, nonlinearity, 1 if i else stride, kind))
    return tuple(blocks)


def _edgetpu() -> tuple[Block, ...]:
    # Each stage begins with a block of factor 8 and goes on with three of factor 4.
    blocks = [Block(3, 32, 16, False, RE, 1, "fused")]
    for kind, kernel, out, stride, repeats, residual in (
        ("fused", 3, 32, 2, 3, True),
        ("fused", 3, 48, 2, 3, True),
        ("inverted", 3, 96, 2, 3, True),
        ("inverted", 3, 96, 1, 3, False),
        ("inverted", 5, 160, 2, 3, True),
        ("inverted", 3, 192, 1, 0, True),
    ):
        blocks.append(Block(kernel, blocks[-1].out * 8, out, False, RE, stride, kind, residual))
        blocks += [Block(kernel, out * 4, out, False, RE, 1, kind)] * repeats
    return tuple(blocks)


ANCESTORS = {
    "mobilenet_v1": Architecture(32, _separable(), last=0, head=0, nonlinearity=R6),
    "mobilenet_v2": Architecture(32, _stages(_V2, R6), last=1280, head=0, nonlinearity=R6),
    "mnasnet_a1": Architecture(
        32,
        _stages(_MNASNET_A1, RE),
        last=1280,
        head=0,
        nonlinearity=RE,
        gate="sigmoid",
        squeeze_input=True,
    ),
    "mnasnet_b1": Architecture(32, _stages(_MNASNET_B1, RE), last=1280, head=0, nonlinearity=RE),
    "mobilenet_edgetpu": Architecture(32, _edgetpu(), last=1280, head=0, nonlinearity=RE),
}
