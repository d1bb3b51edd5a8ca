"""Rules of the operators that move or interpolate pixels; ``mnv3c.ir.verify`` applies them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.broadcast import broadcast
from mnv3c.ir.graph import Graph, Node, Shape
from mnv3c.ir.positions import COORDINATES, ROUNDINGS
from mnv3c.ir.softmax import MOST_SUM, MOST_TABLE
from mnv3c.reference.windows import window_output_size

Require = Callable[[bool, str, str], None]


def rules(require: Require) -> dict[type[Node], Callable[[Graph, Any], None]]:
    """Checks by operator; each calls ``require(condition, place, rule)``."""

    def shape(graph: Graph, node: Node, want: Shape) -> None:
        got = graph.tensor(node.output).shape
        require(got == want, node.name, f"output shape {got}, expected {want}")

    def dtypes(graph: Graph, node: Node, inputs: tuple[str, ...], output: str | None = None) -> None:
        for name in node.inputs:
            got = graph.tensor(name).dtype
            require(got in inputs, node.name, f"{name} is {got}")
        want = output or graph.tensor(node.inputs[0]).dtype
        got = graph.tensor(node.output).dtype
        require(got == want, node.name, f"output is {got}, expected {want}")

    def same_quant(graph: Graph, node: Node) -> None:
        want = graph.tensor(node.output).quant
        equal = all(graph.tensor(i).quant == want for i in node.inputs)
        require(equal, node.name, "inputs and output must have one quantisation")

    def resize(graph: Graph, node: f.Resize | q.QResize) -> None:
        require(node.kind in ("bilinear", "nearest"), node.name, f"kind {node.kind}")
        require(node.coordinates in COORDINATES, node.name, f"coordinates {node.coordinates}")
        require(node.rounding in ROUNDINGS, node.name, f"rounding {node.rounding}")
        x = graph.tensor(node.inputs[0])
        if isinstance(node, q.QResize):
            most = 7 if x.dtype == "int16" else 11
            require(1 <= node.bits <= most, node.name, f"{node.bits} bits of weight")
        if node.output in graph.tensors:  # inside a fused node there is no tensor to check
            y = graph.tensor(node.output)
            require(y.shape[2] == x.shape[2], node.name, f"{x.shape[2]} channels become {y.shape[2]}")
            if isinstance(node, q.QResize):
                dtypes(graph, node, ("int8", "int16"))
                same_quant(graph, node)

    def argmax(graph: Graph, node: f.ArgMax | q.QArgMax) -> None:
        x = graph.tensor(node.inputs[0])
        shape(graph, node, (*x.shape[:2], 1))
        if isinstance(node, q.QArgMax):
            require(x.shape[2] <= 256, node.name, f"{x.shape[2]} classes do not fit a byte")
            dtypes(graph, node, ("int8", "int16"), "uint8")

    def fused_argmax(graph: Graph, node: q.FusedResizeArgMax) -> None:
        resize(graph, node.resize)
        x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
        require(x.shape[2] <= 256 and y.shape[2] == 1, node.name, f"{x.shape} to {y.shape}")
        dtypes(graph, node, ("int8", "int16"), "uint8")

    def concat(graph: Graph, node: f.Concat | q.QConcat) -> None:
        shapes = [graph.tensor(i).shape for i in node.inputs]
        require(node.axis in (0, 1, 2) and len(shapes) > 0, node.name, f"axis {node.axis}")
        want = list(shapes[0])
        want[node.axis] = sum(s[node.axis] for s in shapes)
        rest = [tuple(n for i, n in enumerate(s) if i != node.axis) for s in shapes]
        require(len(set(rest)) == 1, node.name, f"cannot join {shapes} along axis {node.axis}")
        shape(graph, node, (want[0], want[1], want[2]))
        if isinstance(node, q.QConcat):
            dtypes(graph, node, ("int8", "int16"))
            same_quant(graph, node)

    def part(graph: Graph, node: f.Slice | q.QSlice) -> None:
        x, y = graph.tensor(node.inputs[0]).shape, graph.tensor(node.output).shape
        inside = all(b >= 0 and b + n <= m for b, n, m in zip(node.begin, y, x, strict=True))
        require(inside, node.name, f"{y} from {node.begin} is not inside of {x}")
        if isinstance(node, q.QSlice):
            dtypes(graph, node, ("int8", "int16"))

    def spread(graph: Graph, node: f.Spread | q.QSpread) -> None:
        height, width, channels = graph.tensor(node.inputs[0]).shape
        stride = node.stride
        top, left, bottom, right = node.pad
        require(min(*node.pad, stride[0] - 1, stride[1] - 1) >= 0, node.name, f"{node.pad}, {stride}")
        rows, columns = (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1
        shape(graph, node, (rows + top + bottom, columns + left + right, channels))
        if isinstance(node, q.QSpread):
            dtypes(graph, node, ("int8",))
            same_quant(graph, node)

    def transposed(graph: Graph, node: f.TransposedConv2d) -> None:
        height, width, channels = graph.tensor(node.inputs[0]).shape
        out, kh, kw, per_input = node.weight.shape
        require(per_input == channels and node.bias.shape == (out,), node.name, "weights do not fit")
        top, left, bottom, right = node.pad
        fits = max(top, bottom) < kh and max(left, right) < kw and min(node.pad) >= 0
        require(fits, node.name, f"padding {node.pad} of a window of {(kh, kw)}")
        rows = (height - 1) * node.stride[0] + kh - top - bottom
        shape(graph, node, (rows, (width - 1) * node.stride[1] + kw - left - right, out))

    def sigmoid(graph: Graph, node: q.QSigmoid) -> None:
        dtypes(graph, node, ("int16",))
        shape(graph, node, graph.tensor(node.inputs[0]).shape)
        table = node.table
        good = len(table) == 257 and all(0 <= a <= b <= 32767 for a, b in pairwise(table))
        require(good, node.name, "table must be 257 rising values of Q15")

    def softmax(graph: Graph, node: f.Softmax | q.QSoftmax) -> None:
        x = graph.tensor(node.inputs[0])
        shape(graph, node, x.shape)
        fits = node.groups >= 1 and x.shape[2] % node.groups == 0
        require(fits, node.name, f"{x.shape[2]} channels in {node.groups} runs")
        if isinstance(node, q.QSoftmax):
            dtypes(graph, node, ("int8",), "int16" if graph.tensor(node.output).dtype == "int16" else "int8")
            count = x.shape[2] // node.groups
            for table, least in ((node.table, 1), (node.scaled, 0)):
                falling = all(a >= b >= 0 for a, b in pairwise(table))
                good = len(table) == 256 and least <= table[0] <= MOST_TABLE and falling
                require(good, node.name, "tables must be 256 falling values of 31 bits")
            require(count * node.table[0] <= MOST_SUM, node.name, f"a sum of {count} channels can overflow")
            limits = np.iinfo(graph.tensor(node.output).dtype)
            require(limits.min <= node.offset <= limits.max, node.name, f"offset {node.offset}")

    def add16(graph: Graph, node: q.QAdd16) -> None:
        dtypes(graph, node, ("int16",))
        a, b = (graph.tensor(i).shape for i in node.inputs)
        both = broadcast(a, b)
        require(both is not None, node.name, f"shapes {a} and {b} do not fit")
        assert both is not None
        shape(graph, node, both)
        require(all(0 <= m <= 32767 for m in node.multipliers), node.name, "multiplier outside Q15")

    def windowed(graph: Graph, node: q.QAveragePool | q.QWindowMean) -> None:
        height, width, channels = graph.tensor(node.inputs[0]).shape
        size = window_output_size((height, width), node.kernel, node.stride, node.pad)
        shape(graph, node, (*size, channels))
        dtypes(graph, node, ("int8",), graph.tensor(node.output).dtype)
        covered = all(p < k for p, k in zip(node.pad, node.kernel * 2, strict=True))
        require(covered, node.name, f"padding {node.pad} of a window of {node.kernel}")
        area = node.kernel[0] * node.kernel[1]
        if isinstance(node, q.QWindowMean):
            require(area <= 1 << 22, node.name, f"window of {area} pixels")
            return
        require(node.bias.dtype == np.int32 and node.bias.shape == (channels,), node.name, "bias int32 [C]")
        # A partial window's sum times twice the whole area has to fit int64, and the result int32.
        worst = (np.abs(node.bias.astype(np.int64)).max() + 128 * area) << node.requant.shift
        require(bool(worst < 2**31), node.name, "accumulator can overflow")

    def detect(graph: Graph, node: q.QDetect) -> None:
        anchors = node.anchors
        good = anchors.dtype == np.int32 and anchors.ndim == 2 and anchors.shape[1] == 4
        require(good and 0 < len(anchors) < 1 << 16, node.name, "anchors int32 [N, 4], fewer than 65536")
        sides = good and bool((anchors[:, 2:] >= 0).all() and (np.abs(anchors) < 1 << 22).all())
        require(sides, node.name, "anchors outside of four images")
        require(len(node.inputs) == 2 * node.maps, node.name, "a map of codes and one of scores each")
        require(len(node.score_scales) == node.maps, node.name, "one scale a map")
        require(0 <= node.first_class < node.classes <= 256, node.name, f"{node.classes} classes")
        require(min(node.most, node.most_a_class) > 0, node.name, "no room for a box")
        require(0 <= node.overlap <= 1 << 15, node.name, f"overlap {node.overlap}")
        require(len(node.score_table) == len(node.exponential) == 257, node.name, "tables of 257")
        rising = all(0 <= a <= b <= 32767 for a, b in pairwise(node.score_table))
        require(rising, node.name, "scores must rise, in Q15")
        scales = [m for _, *ms in (*node.box_scales, *node.score_scales) for m in ms]
        require(all(0 <= m < 2**31 for m in scales), node.name, "multiplier outside of 31 bits")
        total = 0
        for codes, scores in zip(node.inputs[: node.maps], node.inputs[node.maps :], strict=True):
            a, b = graph.tensor(codes), graph.tensor(scores)
            require({a.dtype, b.dtype} <= {"int8", "int16"}, node.name, f"{codes} or {scores} is no integer")
            require(a.elements * node.classes == b.elements * 4, node.name, f"{codes} does not fit {scores}")
            total += a.elements // 4
        require(total == len(anchors), node.name, f"{total} codes for {len(anchors)} anchors")
        row, most = [graph.tensor(o) for o in node.outputs], node.most
        want = [((1, most, 4), "float32"), ((1, most, 1), "float32"), ((1, most, 1), "uint8")]
        got = [(t.shape, t.dtype) for t in row]
        require(got == [*want, ((1, 1, 1), "int32")], node.name, f"outputs {got}")

    return {
        f.Resize: resize,
        f.ArgMax: argmax,
        f.Concat: concat,
        f.Slice: part,
        f.Spread: spread,
        f.TransposedConv2d: transposed,
        q.QResize: resize,
        q.QArgMax: argmax,
        q.FusedResizeArgMax: fused_argmax,
        q.QConcat: concat,
        q.QSlice: part,
        q.QSpread: spread,
        q.QSigmoid: sigmoid,
        f.Softmax: softmax,
        q.QSoftmax: softmax,
        q.QAdd16: add16,
        q.QAveragePool: windowed,
        q.QWindowMean: windowed,
        q.QDetect: detect,
    }
