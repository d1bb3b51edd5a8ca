"""A zoo network as a Relax module: NCHW, batch norm kept, the same kind of module as an imported one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from mnv3c.frontend.zoo.architecture import HS, R6, Architecture, has_expand
from mnv3c.frontend.zoo.layers import LayerWeights, Weights


def build(a: Architecture, weights: Weights, resolution: int, padding: str) -> Any:
    """Make a module whose ``main`` takes ``[1, 3, resolution, resolution]`` and gives ``[1, classes]``.

    Args:
        a: the architecture, with the width multiplier applied.
        weights: parameters of every layer.
        resolution: height and width of the input.
        padding: ``torch`` (symmetric) or ``tf`` (SAME: the odd pixel at the bottom and on the right).
    """
    return _Builder(a, weights, resolution, padding).build()


def same_padding(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Padding before and after one axis."""
    if padding == "torch":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Builder:
    def __init__(self, a: Architecture, weights: Weights, resolution: int, padding: str) -> None:
        self.a, self.weights, self.resolution, self.padding = a, weights, resolution, padding
        self.bb = relax.BlockBuilder()

    def build(self) -> Any:
        image = relax.Var("image", relax.TensorType((1, 3, self.resolution, self.resolution), "float32"))
        with self.bb.function("main", [image]):
            with self.bb.dataflow():
                x = self.act(self.conv("stem", image, stride=2), self.a.nonlinearity)
                for i in range(len(self.a.blocks)):
                    x = self.block(i, x)
                if self.a.last:
                    x = self.act(self.conv("last", x), self.a.nonlinearity)
                x = self.emit(relax.op.mean(x, [2, 3], keepdims=True))
                if self.a.head:
                    x = self.act(self.conv("head", x), self.a.nonlinearity)
                x = self.conv("classifier", x)
                classes = self.weights["classifier"].weight.shape[0]
                out = self.bb.emit_output(relax.op.reshape(x, (1, classes)))
            self.bb.emit_func_output(out)
        return self.bb.get()

    def block(self, i: int, x: Any) -> Any:
        b, name, entry = self.a.blocks[i], f"block{i}", x
        fused = b.kind == "fused"
        if has_expand(self.a, i):
            x = self.act(self.conv(f"{name}.expand", x, stride=b.stride if fused else 1), b.nonlinearity)
        if not fused:
            x = self.conv(f"{name}.depthwise", x, stride=b.stride, dilation=b.dilation, depthwise=True)
            x = self.act(x, b.nonlinearity)
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
