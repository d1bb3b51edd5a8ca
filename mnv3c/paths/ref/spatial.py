"""Stages of portable C for the operators that move or interpolate pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mnv3c.codegen.program import Stage
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import DTYPE_BYTES, Graph, Node, Tensor
from mnv3c.ir.positions import positions
from mnv3c.ir.printer import shape_text
from mnv3c.paths.ref.base import CTYPE, Regions, each_channel, make_stage, operands, row_parts
from mnv3c.reference.detect import LARGEST, LOG2_E

# Columns that an enlarged map is computed by: rows of some classes then stay in the first-level cache.
_STRIP = 256


def _tables(node: q.QResize, x: Tensor, y: Tensor) -> dict[str, tuple[np.ndarray, str]]:
    """Where each output row and column reads, and between neighbours with which weight; int16."""
    tables: dict[str, tuple[np.ndarray, str]] = {}
    for axis, name in enumerate(("row", "column")):
        at = positions(x.shape[axis], y.shape[axis], node.coordinates)
        if node.kind == "nearest":
            tables[f"{name}s"] = (at.nearest(node.rounding).astype(np.int16), "table")
            continue
        below, weights = at.weights(node.bits)
        tables[f"{name}s"] = (below.astype(np.int16), "table")
        tables[f"{name}_weights"] = (weights.astype(np.int16), "table")
    return tables


def _resize(graph: Graph, node: q.QResize, regions: Regions) -> Stage:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    return make_stage(
        graph,
        node,
        regions,
        "resize.c.j2",
        title=f"resize {node.kind}, {shape_text(x)} to {shape_text(y)}",
        constants=_tables(node, x, y),
        parts=row_parts(y),
    )


def _resize_argmax(graph: Graph, node: q.FusedResizeArgMax, regions: Regions) -> Stage:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    strip = min(y.shape[1], _STRIP)
    return make_stage(
        graph,
        node,
        regions,
        "resize_argmax.c.j2",
        title=f"resize {node.resize.kind} and argmax, {shape_text(x)} to {shape_text(y)}",
        constants=_tables(node.resize, x, y),
        parts=row_parts(y),
        scratch=4 * strip * (2 * x.shape[2] + 2),
        strip=strip,
    )


def _argmax(graph: Graph, node: q.QArgMax, regions: Regions) -> Stage:
    x = graph.tensor(node.inputs[0])
    title = f"argmax, {shape_text(x)}"
    return make_stage(graph, node, regions, "argmax.c.j2", title=title, parts=row_parts(x))


def _sigmoid(graph: Graph, node: q.QSigmoid, regions: Regions) -> Stage:
    title = f"sigmoid, {shape_text(graph.tensor(node.output))}"
    constants = {"sigmoid": (np.asarray(node.table, np.int16), "table")}
    return make_stage(graph, node, regions, "sigmoid.c.j2", title=title, constants=constants, in_place=0)


def _softmax(graph: Graph, node: q.QSoftmax, regions: Regions) -> Stage:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    count = x.shape[2] // node.groups
    title = f"softmax over {count}, {shape_text(x)}"
    return make_stage(
        graph,
        node,
        regions,
        "softmax.c.j2",
        title=title,
        constants={
            "exponential": (np.asarray(node.table, np.int32), "table"),
            "scaled": (np.asarray(node.scaled, np.int32), "table"),
        },
        parts=row_parts(x),
        in_place=0,
        count=count,
        runs=x.shape[1] * node.groups,
        limit=int(np.iinfo(y.dtype).max),
    )


def _add16(graph: Graph, node: q.QAdd16, regions: Regions) -> Stage:
    title = f"add, 16 bits, {shape_text(graph.tensor(node.output))}"
    return make_stage(graph, node, regions, "add16.c.j2", title=title, at=operands(graph, node))


def _average_pool(graph: Graph, node: q.QAveragePool | q.QWindowMean, regions: Regions) -> Stage:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    constants: dict[str, tuple[np.ndarray, str]] = {}
    if isinstance(node, q.QAveragePool):
        constants = {
            "bias": (node.bias, "bias"),
            "multiplier": (node.requant.multiplier, "multiplier"),
            "offset": (each_channel(node.requant.offset, y), "table"),
        }
        if node.count_include_pad and any(node.pad):
            zero_point = np.asarray(x.quant.zero_point if x.quant else (0,), np.int8)
            constants["padding"] = (each_channel(zero_point, x), "table")
    return make_stage(
        graph,
        node,
        regions,
        "average_pool.c.j2",
        title=f"average pool {node.kernel[0]}x{node.kernel[1]}, {shape_text(x)} to {shape_text(y)}",
        constants=constants,
        parts=row_parts(y),
        scratch=4 * x.shape[2],
        mean=isinstance(node, q.QWindowMean),
    )


def _concat(graph: Graph, node: q.QConcat, regions: Regions) -> Stage:
    """Runs of neighbouring bytes: whole tensors, rows or pixels, as the axis says."""
    y = graph.tensor(node.output)
    size = DTYPE_BYTES[y.dtype]
    turns = int(np.prod(y.shape[: node.axis]))
    runs, offset = [], 0
    for name in node.inputs:
        count = graph.tensor(name).elements // turns
        runs.append({"from": f"R_{regions[name]}", "offset": offset * size, "bytes": count * size})
        offset += count
    return make_stage(
        graph,
        node,
        regions,
        "concat.c.j2",
        title=f"concatenate {len(runs)} to {shape_text(y)}",
        turns=turns,
        row=offset * size,
        runs=runs,
    )


def _slice(graph: Graph, node: q.QSlice, regions: Regions) -> Stage:
    title = f"slice {shape_text(graph.tensor(node.output))} of {shape_text(graph.tensor(node.inputs[0]))}"
    return make_stage(graph, node, regions, "slice.c.j2", title=title)


def _spread(graph: Graph, node: q.QSpread, regions: Regions) -> Stage:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    zero_point = np.asarray(x.quant.zero_point if x.quant else (0,), np.int8)
    constants = {"padding": (each_channel(zero_point, x), "table")}
    title = f"{'pad' if node.stride == (1, 1) else 'set apart'}, {shape_text(x)} to {shape_text(y)}"
    return make_stage(graph, node, regions, "spread.c.j2", title=title, constants=constants)


def _detect(graph: Graph, node: q.QDetect, regions: Regions) -> Stage:
    maps: list[dict[str, object]] = []
    first = 0
    for i in range(node.maps):
        codes, logits = node.inputs[i], node.inputs[node.maps + i]
        count = graph.tensor(codes).elements // 4
        maps.append(
            {
                "count": count,
                "first": first,
                "boxes": f"R_{regions[codes]}",
                "scores": f"R_{regions[logits]}",
                "box_type": CTYPE[graph.tensor(codes).dtype],
                "score_type": CTYPE[graph.tensor(logits).dtype],
                "box_scale": node.box_scales[i],
                "score_scale": node.score_scales[i],
            }
        )
        first += count
    kept = node.most if node.agnostic else node.most_a_class
    words = 5 * first + kept + 3 * node.most
    classes = node.classes - node.first_class
    return make_stage(
        graph,
        node,
        regions,
        "detect.c.j2",
        title=f"decode {first} boxes of {classes} classes, suppress, keep {node.most}",
        constants={
            "anchors": (node.anchors, "table"),
            "exponential": (np.asarray(node.exponential, np.int32), "table"),
            "score_table": (np.asarray(node.score_table, np.int16), "table"),
        },
        outputs=4,
        scratch=4 * words + (-(-first // 4) * 4 if node.agnostic else 0),
        maps=maps,
        anchors=first,
        kept=kept,
        results=[f"R_{regions[o]}" for o in node.outputs],
        log2_e=LOG2_E,
        largest=LARGEST,
    )


RULES: dict[type[Node], Callable[..., Stage]] = {
    q.QResize: _resize,
    q.FusedResizeArgMax: _resize_argmax,
    q.QArgMax: _argmax,
    q.QSigmoid: _sigmoid,
    q.QSoftmax: _softmax,
    q.QAdd16: _add16,
    q.QAveragePool: _average_pool,
    q.QWindowMean: _average_pool,
    q.QConcat: _concat,
    q.QSlice: _slice,
    q.QSpread: _spread,
    q.QDetect: _detect,
}
