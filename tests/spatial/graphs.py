"""Random integer graphs of the operators that move or interpolate pixels."""

from __future__ import annotations

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.positions import COORDINATES, ROUNDINGS
from mnv3c.ir.softmax import softmax_node
from mnv3c.ir.verify import verify
from mnv3c.quant.spatial import SIGMOID_TABLE
from mnv3c.reference.arithmetic import quantize_multiplier
from mnv3c.reference.windows import window_output_size


class Sampler:
    """One input and one node at a time; every choice comes from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def shape(self, most: int = 9) -> Shape:
        return self.integer(1, most), self.integer(1, most), self.integer(1, most)

    def input(self, shape: Shape, dtype: str = "int8") -> str:
        name = f"x{len(self.inputs)}"
        zero_point = self.integer(-128, 127) if dtype == "int8" else 0
        self.tensors[name] = Tensor(name, shape, dtype, Quant((0.1,), (zero_point,)))
        self.inputs.append(name)
        return name

    def emit(self, node: type, inputs: tuple[str, ...], shape: Shape, dtype: str, **fields: object) -> str:
        name = f"{node.__name__.lower()}{len(self.nodes)}"
        quant = self.tensors[inputs[0]].quant if dtype != "uint8" else Quant((1.0,))
        self.tensors[f"{name}_y"] = Tensor(f"{name}_y", shape, dtype, quant)
        self.nodes.append(node(name, inputs, (f"{name}_y",), **fields))
        return f"{name}_y"

    def resize(self, shape: Shape | None = None, dtype: str | None = None, kind: str | None = None) -> str:
        shape, dtype = shape or self.shape(), dtype or str(self.rng.choice(["int8", "int16"]))
        x = self.input(shape, dtype)
        kind = kind or str(self.rng.choice(["bilinear", "nearest"]))
        coordinates, rounding = str(self.rng.choice(COORDINATES)), str(self.rng.choice(ROUNDINGS))
        size = (self.integer(1, 20), self.integer(1, 20), shape[2])
        bits = self.integer(1, 7) if dtype == "int16" else self.integer(1, 11)
        return self.emit(
            q.QResize,
            (x,),
            size,
            dtype,
            kind=kind,
            coordinates=coordinates,
            rounding=rounding,
            bits=bits,
        )

    def classes(self) -> str:
        scores = self.resize(kind="bilinear")
        height, width, _ = self.tensors[scores].shape
        return self.emit(q.QArgMax, (scores,), (height, width, 1), "uint8")

    def argmax(self) -> str:
        x = self.input(self.shape(), str(self.rng.choice(["int8", "int16"])))
        height, width, _ = self.tensors[x].shape
        return self.emit(q.QArgMax, (x,), (height, width, 1), "uint8")

    def sigmoid(self) -> str:
        x = self.input(self.shape(), "int16")
        return self.emit(q.QSigmoid, (x,), self.tensors[x].shape, "int16", table=SIGMOID_TABLE)

    def softmax(self) -> str:
        groups, count = self.integer(1, 3), self.integer(1, 9)
        x = self.input((self.integer(1, 9), self.integer(1, 9), groups * count))
        scale = float(10 ** self.rng.uniform(-9, 4))
        dtype = str(self.rng.choice(["int8", "int16"]))
        levels = float(2 ** self.rng.uniform(-3, 9)) if dtype == "int8" else 32768.0
        offset = self.integer(-128, 127) if dtype == "int8" else 0
        node = softmax_node(
            "", "", "", scale=scale, classes=count, output_scale=1 / levels, offset=offset, groups=groups
        )
        fields = {k: v for k, v in vars(node).items() if k not in ("name", "inputs", "outputs")}
        return self.emit(q.QSoftmax, (x,), self.tensors[x].shape, dtype, **fields)

    def add16(self) -> str:
        shape = self.shape()
        a, b = self.input(shape, "int16"), self.input(shape, "int16")
        multipliers = (self.integer(0, 32767), self.integer(0, 32767))
        return self.emit(q.QAdd16, (a, b), shape, "int16", multipliers=multipliers)

    def window(self) -> tuple[Shape, dict[str, object]]:
        shape = (self.integer(3, 12), self.integer(3, 12), self.integer(1, 9))
        kernel = (self.integer(1, shape[0]), self.integer(1, shape[1]))
        pad = tuple(self.integer(0, k - 1) if self.integer(0, 1) else 0 for k in kernel * 2)
        stride = (self.integer(1, 4), self.integer(1, 4))
        return shape, {"kernel": kernel, "stride": stride, "pad": pad}

    def average_pool(self) -> str:
        shape, fields = self.window()
        kernel, stride, pad = fields["kernel"], fields["stride"], fields["pad"]
        size = window_output_size(shape[:2], kernel, stride, pad)  # type: ignore[arg-type]
        area = kernel[0] * kernel[1]  # type: ignore[index]
        x = self.input(shape)
        channels = shape[2]
        if self.integer(0, 1):
            away = bool(self.integer(0, 1))
            return self.emit(
                q.QWindowMean, (x,), (*size, channels), "int8", **fields, away=away, low=-100, high=99
            )
        dtype = str(self.rng.choice(["int8", "int16"]))
        scale = self.rng.uniform(0.3, 1.5, channels) / area * (1 if dtype == "int8" else 200)
        return self.emit(
            q.QAveragePool,
            (x,),
            (*size, channels),
            dtype,
            **fields,
            bias=self.rng.integers(-50 * area, 50 * area, channels).astype(np.int32),
            requant=q.Requant(*quantize_multiplier(scale)),
            count_include_pad=bool(self.integer(0, 1)),
        )

    def concat(self) -> str:
        axis, shape = self.integer(0, 2), self.shape()
        dtype = str(self.rng.choice(["int8", "int16"]))
        parts = []
        for _ in range(self.integer(1, 3)):
            own = list(shape)
            own[axis] = self.integer(1, 5)
            parts.append(self.input((own[0], own[1], own[2]), dtype))
        for name in parts[1:]:
            self.tensors[name] = Tensor(name, self.tensors[name].shape, dtype, self.tensors[parts[0]].quant)
        total = list(shape)
        total[axis] = sum(self.tensors[p].shape[axis] for p in parts)
        return self.emit(q.QConcat, tuple(parts), (total[0], total[1], total[2]), dtype, axis=axis)

    def slice(self) -> str:
        x = self.input(self.shape(), str(self.rng.choice(["int8", "int16"])))
        shape = self.tensors[x].shape
        begin = tuple(self.integer(0, n - 1) for n in shape)
        size = tuple(self.integer(1, n - b) for n, b in zip(shape, begin, strict=True))
        return self.emit(q.QSlice, (x,), size, self.tensors[x].dtype, begin=begin)  # type: ignore[arg-type]

    def spread(self) -> str:
        x = self.input(self.shape(6))
        height, width, channels = self.tensors[x].shape
        stride = (self.integer(1, 3), self.integer(1, 3))
        pad = tuple(self.integer(0, 3) for _ in range(4))
        rows = (height - 1) * stride[0] + 1 + pad[0] + pad[2]
        columns = (width - 1) * stride[1] + 1 + pad[1] + pad[3]
        return self.emit(q.QSpread, (x,), (rows, columns, channels), "int8", stride=stride, pad=pad)

    def finish(self, name: str, *outputs: str) -> Graph:
        return verify(Graph(name, tuple(self.nodes), self.tensors, tuple(self.inputs), outputs))


KINDS = (
    "resize",
    "classes",
    "argmax",
    "sigmoid",
    "softmax",
    "add16",
    "average_pool",
    "concat",
    "slice",
    "spread",
)


def every_operator(seed: int, each: int = 3) -> Graph:
    """A graph of ``each`` random nodes of every kind, side by side, every result an output."""
    sampler = Sampler(seed)
    outputs = [getattr(sampler, kind)() for kind in KINDS for _ in range(each)]
    return sampler.finish("spatial", *outputs)
