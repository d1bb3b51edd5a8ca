"""A zoo network as a Relax module: NCHW, batch norm kept, the same kind of module as an imported one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from mnv3c.frontend.zoo.architecture import HS, R6, Architecture, Detector, c4_block, has_expand, skip_block
from mnv3c.frontend.zoo.layers import LayerWeights, Weights


def build(a: Architecture, weights: Weights, size: tuple[int, int], padding: str) -> Any:
    """Make a module whose ``main`` takes ``[1, 3, *size]``.

    It gives ``[1, classes]``; a segmenter ``[1, 1, *size]`` class numbers, or logits of a smaller map; a
    detector the codes of every map, then the logits of every map.

    Args:
        a: the architecture, with the width multiplier applied.
        weights: parameters of every layer.
        size: height and width of the input.
        padding: ``torch`` (symmetric) or ``tf`` (SAME: the odd pixel at the bottom and on the right).
    """
    return _Builder(a, weights, size, padding).build()


def same_padding(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Padding before and after one axis."""
    if padding == "torch":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pool_window(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride of Lite R-ASPP's pooling: 49x49 and (16, 20) on the paper's map of 65x129.

    On other maps in proportion.
    """
    height, width = size
    window = (max(round(height * 49 / 65), 1), max(round(width * 49 / 129), 1))
    return window, (max(round(height * 16 / 65), 1), max(round(width * 20 / 129), 1))


def _size(x: Any) -> tuple[int, int]:
    _, _, height, width = (int(n) for n in x.ty.shape)
    return height, width


class _Builder:
    def __init__(self, a: Architecture, weights: Weights, size: tuple[int, int], padding: str) -> None:
        self.a, self.weights, self.size, self.padding = a, weights, size, padding
        self.expanded: list[Any] = []  # input of each block's depthwise convolution
        self.depthwise: list[Any] = []  # output of each block's depthwise convolution, activated
        self.bb = relax.BlockBuilder()

    def build(self) -> Any:
        image = relax.Var("image", relax.TensorType((1, 3, *self.size), "float32"))
        with self.bb.function("main", [image]):
            with self.bb.dataflow():
                x = self.act(self.conv("stem", image, stride=2), self.a.nonlinearity)
                for i in range(len(self.a.blocks)):
                    x = self.block(i, x)
                if self.a.last:
                    x = self.act(self.conv("last", x), self.a.nonlinearity)
                if self.a.detector is not None:
                    result = relax.Tuple(self.detector(self.a.detector, x))
                else:
                    result = self.classifier(x) if self.a.segmenter is None else self.segmenter(x)
                out = self.bb.emit_output(result)
            self.bb.emit_func_output(out)
        return self.bb.get()

    def classifier(self, x: Any) -> Any:
        x = self.emit(relax.op.mean(x, [2, 3], keepdims=True))
        if self.a.head:
            x = self.act(self.conv("head", x), self.a.nonlinearity)
        x = self.conv("classifier", x)
        return relax.op.reshape(x, (1, self.weights["classifier"].weight.shape[0]))

    def segmenter(self, x: Any) -> Any:
        """The head of a segmentation: classes of all pixels, or logits."""
        assert self.a.segmenter is not None
        x = self.lite_raspp(x) if self.a.segmenter.lite else self.raspp(x)
        if not self.a.segmenter.argmax:
            return x
        return relax.op.argmax(self.resize(x, self.size), axis=1, keepdims=True)

    def raspp(self, x: Any) -> Any:
        """R-ASPP: a branch of the map beside its mean."""
        pooled = self.emit(relax.op.mean(x, [2, 3], keepdims=True))
        pooled = self.resize(self.act(self.conv("pooled", pooled), "relu"), _size(x))
        both = self.emit(relax.op.concat([self.act(self.conv("branch", x), "relu"), pooled], axis=1))
        return self.conv("classifier", self.act(self.conv("join", both), "relu"))

    def lite_raspp(self, x: Any) -> Any:
        """Lite R-ASPP: one branch gated by the other, refined by a larger map."""
        size, skip = _size(x), self.depthwise[skip_block(self.a)]
        window, stride = pool_window(size)
        pooled = self.emit(relax.op.nn.avg_pool2d(x, pool_size=window, strides=stride))
        gate = self.resize(self.emit(relax.op.sigmoid(self.conv("gate", pooled))), size)
        x = self.emit(relax.op.multiply(self.act(self.conv("branch", x), "relu"), gate))
        x = self.conv("high", self.resize(x, _size(skip)))
        return self.emit(relax.op.add(x, self.conv("low", skip)))

    def detector(self, d: Detector, x: Any) -> list[Any]:
        """Box codes of every map, then class logits of every map."""
        kind = self.a.nonlinearity if self.a.nonlinearity != HS else R6
        maps = [self.expanded[c4_block(self.a)], x]
        for i in range(len(d.extras)):
            x = self.act(self.conv(f"extra{i}.squeeze", x), kind)
            x = self.act(self.conv(f"extra{i}.depthwise", x, stride=2, depthwise=True), kind)
            x = self.act(self.conv(f"extra{i}.expand", x), kind)
            maps.append(x)

        def head(name: str, source: Any) -> Any:
            return self.conv(
                f"{name}.project", self.act(self.conv(f"{name}.depthwise", source, depthwise=True), kind)
            )

        return [head(f"{name}{i}", source) for name in ("box", "score") for i, source in enumerate(maps)]

    def resize(self, x: Any, size: tuple[int, int]) -> Any:
        shape = relax.ShapeExpr(size)
        return self.emit(
            relax.op.image.resize2d(x, shape, method="linear", coordinate_transformation_mode="align_corners")
        )

    def block(self, i: int, x: Any) -> Any:
        b, name, entry = self.a.blocks[i], f"block{i}", x
        fused = b.kind == "fused"
        if has_expand(self.a, i):
            x = self.act(self.conv(f"{name}.expand", x, stride=b.stride if fused else 1), b.nonlinearity)
        self.expanded.append(x)
        if not fused:
            x = self.conv(f"{name}.depthwise", x, stride=b.stride, dilation=b.dilation, depthwise=True)
            x = self.act(x, b.nonlinearity)
        self.depthwise.append(x)
        if b.se:
            gate = self.emit(relax.op.mean(x, [2, 3], keepdims=True))
            gate = self.act(self.conv(f"{name}.squeeze", gate), "relu")
            gate = self.gate(self.conv(f"{name}.excite", gate))
            x = self.emit(relax.op.multiply(x, gate))
        x = self.conv(f"{name}.project", x)
        if b.kind == "separable":
            x = self.act(x, b.nonlinearity)
        same = [int(d) for d in x.ty.shape] == [int(d) for d in entry.ty.shape]
        return self.emit(relax.op.add(x, entry)) if same and b.residual else x

    def conv(self, name: str, x: Any, *, stride: int = 1, dilation: int = 1, depthwise: bool = False) -> Any:
        layer = self.weights[name]
        kernel = layer.weight.shape[2]
        extent = (kernel - 1) * dilation + 1
        sides = [same_padding(int(n), extent, stride, self.padding) for n in list(x.ty.shape)[2:]]
        groups = layer.weight.shape[0] if depthwise else 1
        weight = relax.const(np.ascontiguousarray(layer.weight, np.float32), "float32")
        pads = (sides[0][0], sides[1][0], sides[0][1], sides[1][1])
        out = relax.op.nn.conv2d(x, weight, strides=stride, padding=pads, dilation=dilation, groups=groups)
        return self.behind(layer, self.emit(out))

    def behind(self, layer: LayerWeights, x: Any) -> Any:
        """Bias, or batch norm."""
        if layer.bias is not None:
            x = self.emit(relax.op.add(x, _channel_constant(layer.bias, 4)))
        if layer.batch_norm is None:
            return x
        n = layer.batch_norm
        parameters = [_channel_constant(v, 1) for v in (n.gamma, n.beta, n.mean, n.variance)]
        normed = self.emit(relax.op.nn.batch_norm(x, *parameters, axis=1, epsilon=n.epsilon, training=False))
        return self.emit(relax.TupleGetItem(normed, 0))

    def act(self, x: Any, kind: str) -> Any:
        if kind == HS:
            return self.emit(relax.op.multiply(x, self.hard_sigmoid(x)))
        if kind == R6:
            return self.emit(relax.op.clip(x, 0.0, 6.0))
        return self.emit(relax.op.nn.relu(x))

    def gate(self, x: Any) -> Any:
        return self.emit(relax.op.sigmoid(x)) if self.a.gate == "sigmoid" else self.hard_sigmoid(x)

    def hard_sigmoid(self, x: Any) -> Any:
        shifted = self.emit(relax.op.add(x, relax.const(3.0, "float32")))
        clipped = self.emit(relax.op.clip(shifted, 0.0, 6.0))
        return self.emit(relax.op.divide(clipped, relax.const(6.0, "float32")))

    def emit(self, value: Any) -> Any:
        return self.bb.emit(value)


def _channel_constant(values: np.ndarray, rank: int) -> Any:
    shape = (-1,) if rank == 1 else (1, -1, 1, 1)
    return relax.const(np.ascontiguousarray(values.reshape(shape), np.float32), "float32")
