"""Which layers lose most: each quantised alone, everything else in float."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant
from mnv3c.quant import batched
from mnv3c.quant.state import Progress, signal_to_noise

_LEVELS = {"int8": (-128, 127), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class Sensitivity:
    """What one layer's quantisation alone does to the first output.

    Attributes:
        name: a stored tensor, or a convolution.
        what: ``activation`` or ``weights``.
        signal_to_noise_db: of the output against the float network's.
        agreement: share of inputs whose largest output is the same one.
    """

    name: str
    what: str
    signal_to_noise_db: float
    agreement: float


def sensitivity(
    graph: Graph, quantized: Graph, batch: np.ndarray, progress: Progress | None = None
) -> list[Sensitivity]:
    """Quantise every stored tensor and every convolution's weights alone, worst first.

    Args:
        graph: the float graph that was quantised; ``quantized``: what became of it.
        batch: its inputs, float32 ``(N, H, W, C)``; every tensor of theirs is held in memory.
    """
    values = dict(batched.trace_float(graph, batch))
    names = set(graph.tensors) & set(quantized.tensors)
    stored = [n for n in graph.tensors if n in names and quantized.tensor(n).dtype in _LEVELS]
    convs = {n.name: n for n in quantized.nodes if isinstance(n, q.QConv)}
    reference = values[graph.outputs[0]]
    results = []
    nodes = [n for n in graph.nodes if isinstance(n, f.Conv2d) and n.name in convs and n.inputs[0] in names]
    total = len(stored) + len(nodes)
    for name in stored:
        tensor = quantized.tensor(name)
        if tensor.quant is None or (tensor.dtype == "int16" and name not in graph.outputs):
            continue
        changed = {name: fake_quantize(values[name], tensor.quant, tensor.dtype)}
        results.append(_score(name, "activation", _resume(graph, values, changed), reference))
        if progress:
            progress("sensitivity", len(results), total)
    for node in nodes:
        rounded = f.Conv2d(
            node.name,
            node.inputs,
            node.outputs,
            *real_parameters(quantized, convs[node.name]),
            node.stride,
            node.pad,
            node.dilation,
            node.groups,
        )
        changed = {node.output: batched.float_node(graph, rounded, [values[node.inputs[0]]])}
        results.append(_score(node.name, "weights", _resume(graph, values, changed), reference))
        if progress:
            progress("sensitivity", len(results), total)
    return sorted(results, key=lambda r: r.signal_to_noise_db)


def fake_quantize(x: np.ndarray, quant: Quant, dtype: str) -> np.ndarray:
    """Reals to the integers of ``dtype`` and back, float32."""
    scale, zero = np.asarray(quant.scale), np.asarray(quant.zero_point)
    low, high = _LEVELS[dtype]
    return ((np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale).astype(np.float32)


def real_parameters(graph: Graph, node: q.QConv) -> tuple[np.ndarray, np.ndarray]:
    """The real weights and bias that a quantised convolution stands for, float32."""
    x, out = graph.tensor(node.inputs[0]).quant, graph.tensor(node.output).quant
    assert x is not None and out is not None
    unit = node.requant.multiplier / 2.0**31 * 2.0**node.requant.shift * np.asarray(out.scale)
    channels = graph.tensor(node.inputs[0]).shape[2]
    scale, zero = (
        np.repeat(np.broadcast_to(v, channels).reshape(node.groups, -1), len(unit) // node.groups, axis=0)
        for v in (np.asarray(x.scale), np.asarray(x.zero_point, np.float64))
    )
    weight = node.weight * unit[:, None, None, None] / scale[:, None, None, :]
    offset = (node.weight.sum(axis=(1, 2), dtype=np.float64) * zero).sum(axis=1)
    bias = (node.bias + offset) * unit - np.asarray(out.zero_point) * np.asarray(out.scale)
    return weight.astype(np.float32), bias.astype(np.float32)


def _resume(graph: Graph, values: dict[str, np.ndarray], changed: dict[str, np.ndarray]) -> np.ndarray:
    """The first output after some tensors changed; only what depends on them is computed again."""
    now = dict(changed)
    for node in graph.nodes:
        if node.output not in changed and any(i in now for i in node.inputs):
            now[node.output] = batched.float_node(graph, node, [now.get(i, values[i]) for i in node.inputs])
    return now.get(graph.outputs[0], values[graph.outputs[0]])


def _score(name: str, what: str, got: np.ndarray, want: np.ndarray) -> Sensitivity:
    same = (got.reshape(len(got), -1).argmax(1) == want.reshape(len(want), -1).argmax(1)).mean()
    return Sensitivity(name, what, signal_to_noise(want, got - want), float(same))
