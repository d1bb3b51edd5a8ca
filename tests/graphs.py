"""Random integer graphs for tests of passes, emission and kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.softmax import softmax_node
from mnv3c.ir.verify import verify
from mnv3c.reference.arithmetic import quantize_multiplier
from mnv3c.reference.windows import window_output_size


class Builder:
    """Builds a verified integer graph node by node; every random value comes from ``seed``."""

    def __init__(self, seed: int = 0, name: str = "net") -> None:
        self.rng = np.random.default_rng(seed)
        self.name = name
        self.short = seed % 2 == 1
        self.outliers = 0  # weights a convolution outside of 8 bits
        self.twice = False  # accumulators are rounded a second time, by a shift a channel
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []

    def input(self, *shape: int, dtype: str = "int8", zero_point: Sequence[int] = (0,)) -> str:
        name = f"input{len(self.inputs)}"
        self.inputs.append(self._tensor(name, (shape[0], shape[1], shape[2]), dtype, zero_point))
        return name

    def _tensor(self, name: str, shape: Shape, dtype: str, zero_point: Sequence[int] = (0,)) -> str:
        quant = Quant((0.05,), tuple(int(z) for z in zero_point)) if dtype != "int32" else None
        self.tensors[name] = Tensor(name, shape, dtype, quant)
        return name

    def _add(self, node: Node, shape: Shape, dtype: str, zero_point: Sequence[int] = (0,)) -> str:
        self._tensor(node.output, shape, dtype, zero_point)
        self.nodes.append(node)
        return node.output

    def _fresh(self, kind: str) -> tuple[str, tuple[str, ...]]:
        name = f"{kind}{len(self.nodes)}"
        return name, (f"{name}_out",)

    def zero_points(self, channels: int, per_channel: bool) -> tuple[int, ...]:
        return tuple(self.rng.integers(-128, 100, channels if per_channel else 1).tolist())

    def requant(self, channels: int, spread: float, target: float, shift: int = 0, **clamp: int) -> q.Requant:
        """Multipliers that bring accumulators of standard deviation ``spread`` to about ``target``."""
        scale = self.rng.uniform(0.5, 1.0, channels) * target / max(spread, 1.0)
        if self.twice:
            below = np.clip(np.floor(-np.log2(scale)), 0, 30).astype(np.int8)
            bits = np.minimum(np.rint(np.ldexp(scale, 31 + below - shift)), 2**31 - 1)
            return q.Requant(bits.astype(np.int32), shift, right=below, **clamp)
        multiplier, needed = quantize_multiplier(scale / 2**shift)
        return q.Requant(self.perhaps_short(multiplier), shift + needed, **clamp)

    def perhaps_short(self, values: np.ndarray) -> np.ndarray:
        """In every second graph rounded to 16 bits times a power of two, as our own quantiser has them."""
        below = max(0, int(np.abs(values).max()).bit_length() - 15) if self.short else 0
        return values >> below << below

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int | tuple[int, int] = 1,
        pad: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: int = 1,
        groups: int = 1,
        dtype: str = "int8",
        target: float | None = None,
        shift: int = 0,
        offset: bool = False,
        zero_point: Sequence[int] = (0,),
        **clamp: int,
    ) -> str:
        height, width, channels = self.tensors[x].shape
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = (stride, stride) if isinstance(stride, int) else stride
        weight = np.clip(np.rint(self.rng.normal(0, 45, (out, kh, kw, channels // groups))), -127, 127)
        taps = kh * kw * channels // groups
        spread = 45 * 74 * taps**0.5
        if self.outliers:
            weight.flat[self.rng.integers(0, weight.size, self.outliers)] = self.rng.integers(128, 256)
            weight.flat[self.rng.integers(0, weight.size)] = -255
        bias = self.perhaps_short(self.rng.normal(0, spread / 4, out).astype(np.int32))
        r = self.requant(out, spread, target or (40 if dtype == "int8" else 9000), shift, **clamp)
        if offset:
            r = dataclasses.replace(r, offset=self.rng.integers(-100, 100, out).astype(np.int16))
        name, outputs = self._fresh("conv")
        dilations = (dilation, dilation)
        size = window_output_size((height, width), (kh, kw), strides, pad, dilations)
        weight = weight.astype(np.int16 if self.outliers else np.int8)
        node = q.QConv(name, (x,), outputs, weight, bias, r, strides, pad, dilations, groups)
        return self._add(node, (*size, out), dtype, zero_point)

    def depthwise(self, x: str, kernel: int | tuple[int, int] = 3, **kwargs: object) -> str:
        channels = self.tensors[x].shape[2]
        return self.conv(x, channels, kernel, groups=channels, **kwargs)  # type: ignore[arg-type]

    def hard_swish(self, x: str, shift: int = 2, per_channel: bool = False) -> str:
        shape = self.tensors[x].shape
        n = shape[2] if per_channel else 1
        offset = np.asarray(self.zero_points(shape[2], per_channel), np.int16)
        name, outputs = self._fresh("swish")
        node = q.QHardSwish(
            name, (x,), outputs, shift, self.rng.integers(100, 900, n).astype(np.int16), offset
        )
        return self._add(node, shape, "int8", offset.tolist())

    def hard_sigmoid(self, x: str) -> str:
        name, outputs = self._fresh("sigmoid")
        return self._add(q.QHardSigmoid(name, (x,), outputs), self.tensors[x].shape, "int16")

    def lut(self, x: str) -> str:
        name, outputs = self._fresh("lut")
        node = q.QLut(name, (x,), outputs, self.rng.integers(-128, 128, 256).astype(np.int8))
        return self._add(node, self.tensors[x].shape, "int8")

    def softmax(self, x: str) -> str:
        """Over runs of channels, as many as divide them and are no more than 4."""
        shape = self.tensors[x].shape
        groups = int(self.rng.choice([n for n in (1, 2, 3, 4) if shape[2] % n == 0]))
        name, outputs = self._fresh("softmax")
        scale = float(self.rng.uniform(0.01, 0.2))
        node = softmax_node(name, x, outputs[0], scale=scale, classes=shape[2] // groups, groups=groups)
        return self._add(node, shape, "int8", (-128,))

    def add(self, a: str, b: str, fraction: int = 6, bias: int = 0, **clamp: int) -> str:
        multipliers = [
            0 if self.tensors[t].dtype == "int16" else int(self.rng.integers(4000, 16000)) for t in (a, b)
        ]
        name, outputs = self._fresh("add")
        node = q.QAdd(name, (a, b), outputs, (multipliers[0], multipliers[1]), fraction, bias, **clamp)
        return self._add(node, self.tensors[a].shape, "int8")

    def add32(self, a: str, b: str, shift: int = 18, **clamp: int) -> str:
        multipliers = [int(n) for n in self.rng.integers(1 << 17, 1 << 19, 2)]
        name, outputs = self._fresh("sum")
        bias, offset = (int(n) for n in self.rng.integers((-1 << 24, -100), (1 << 24, 100)))
        node = q.QAdd32(name, (a, b), outputs, (multipliers[0], multipliers[1]), shift, bias, offset, **clamp)
        return self._add(node, self.tensors[a].shape, "int8", (offset,))

    def multiply(self, x: str, y: str, shift: int = 3, **clamp: int) -> str:
        name, outputs = self._fresh("product")
        zeros = [int(n) for n in self.rng.integers(-128, 128, 2)]
        multiplier, right = int(self.rng.integers(1 << 30, 1 << 31)), 7 + shift
        if not self.twice:
            multiplier, right = multiplier >> right, 0
        node = q.QMultiply(
            name, (x, y), outputs, (zeros[0], zeros[1]), multiplier, shift, 5, right=right, **clamp
        )
        return self._add(node, self.tensors[x].shape, "int8")

    def channel_sum(self, x: str) -> str:
        name, outputs = self._fresh("sum")
        return self._add(q.ChannelSum(name, (x,), outputs), (1, 1, self.tensors[x].shape[2]), "int32")

    def requantize(self, x: str, area: int, dtype: str = "int8") -> str:
        channels = self.tensors[x].shape[2]
        target = 60.0 if dtype == "int8" else 9000.0
        name, outputs = self._fresh("mean")
        bias = self.perhaps_short(self.rng.integers(-50 * area, 50 * area + 1, channels).astype(np.int32))
        node = q.Requantize(name, (x,), outputs, bias, self.requant(channels, 60.0 * area, target))
        return self._add(node, (1, 1, channels), dtype)

    def gate(self, x: str, gate: str) -> str:
        shape, zero_point = self.tensors[x].shape, self.tensors[x].quant
        assert zero_point is not None
        name, outputs = self._fresh("gate")
        node = q.QGate(
            name,
            (x, gate),
            outputs,
            self.rng.integers(12000, 32767, shape[2]).astype(np.int16),
            np.asarray(zero_point.zero_point, np.int16),
            1,
            int(self.rng.integers(-20, 20)),
        )
        return self._add(node, shape, "int8", (node.offset,))

    def squeeze_excite(self, x: str, reduced: int) -> str:
        height, width, channels = self.tensors[x].shape
        pooled = self.requantize(self.channel_sum(x), height * width)
        hidden = self.conv(pooled, reduced, low=0)
        gate = self.hard_sigmoid(self.conv(hidden, channels, dtype="int16", target=12000.0))
        return self.gate(x, gate)

    def max_pool(
        self, x: str, kernel: int, stride: int, pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> str:
        height, width, channels = self.tensors[x].shape
        size = window_output_size((height, width), (kernel, kernel), (stride, stride), pad)
        name, outputs = self._fresh("pool")
        node = q.QMaxPool(name, (x,), outputs, (kernel, kernel), (stride, stride), pad)
        return self._add(node, (*size, channels), "int8")

    def quantize(self, x: str, per_channel: bool = False) -> str:
        shape = self.tensors[x].shape
        n = shape[2] if per_channel else 1
        name, outputs = self._fresh("quantize")
        inverse = tuple(np.float32(v).item() for v in self.rng.uniform(20, 90, n))
        zero_point = self.zero_points(n, True)
        return self._add(q.Quantize(name, (x,), outputs, inverse, zero_point), shape, "int8", zero_point)

    def flip_sign(self, x: str) -> str:
        name, outputs = self._fresh("flip")
        dtype = "int8" if self.tensors[x].dtype == "uint8" else "uint8"
        return self._add(q.FlipSign(name, (x,), outputs), self.tensors[x].shape, dtype)

    def dequantize(self, x: str) -> str:
        name, outputs = self._fresh("dequantize")
        return self._add(q.Dequantize(name, (x,), outputs, (0.0123,), (3,)), self.tensors[x].shape, "float32")

    def finish(self, *outputs: str) -> Graph:
        return verify(Graph(self.name, tuple(self.nodes), self.tensors, tuple(self.inputs), outputs))


def inverted_residual(
    b: Builder,
    x: str,
    expand: int,
    out: int,
    kernel: int,
    stride: int,
    reduced: int = 0,
    swish: bool = True,
    per_channel: bool = True,
) -> str:
    """A MobileNetV3 block (paper, figure 4) of random weights; residual where shapes allow it."""
    channels = b.tensors[x].shape[2]
    y = x
    if expand != channels:
        if swish:
            y = b.hard_swish(b.conv(y, expand, dtype="int16"), per_channel=per_channel)
        else:
            y = b.conv(y, expand, zero_point=(-128,))
    half = kernel // 2
    pad = (half, half, half, half) if stride == 1 else (half - 1, half - 1, half, half)
    if swish:
        y = b.hard_swish(
            b.depthwise(y, kernel, stride=stride, pad=pad, dtype="int16"), per_channel=per_channel
        )
    else:
        y = b.depthwise(y, kernel, stride=stride, pad=pad)
    if reduced:
        y = b.squeeze_excite(y, reduced)
    if stride == 1 and out == channels:
        return b.add(b.conv(y, out, dtype="int16", target=4000.0), x)
    return b.conv(y, out)


def attention(b: Builder, x: str) -> str:
    """A gate of every pixel, then the sum with a value a channel and the product with one a row of pixels."""
    height, width, channels = b.tensors[x].shape
    gated = b.gate(x, b.hard_sigmoid(b.conv(x, 1, dtype="int16", target=12000.0)))
    y = b.add32(gated, b.requantize(b.channel_sum(gated), height * width))
    return b.multiply(y, b.conv(y, channels, (height, 1), groups=channels))


def random_inputs(graph: Graph, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Inputs over the whole range of their dtypes."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        t = graph.tensor(name)
        if t.dtype == "float32":
            values[name] = rng.normal(0, 1.5, t.shape).astype(np.float32)
        else:
            info = np.iinfo(t.dtype)
            values[name] = rng.integers(info.min, info.max + 1, t.shape).astype(t.dtype)
    return values
