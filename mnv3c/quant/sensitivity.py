"""Which layers lose most: each quantised alone, everything else in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.quant import batched
from mnv3c.quant.state import Progress, decibels

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
_AT_ONCE = 4
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
        batch: its inputs, float32 ``(N, H, W, C)``; every tensor of a few of them is held in memory.
    """
    changes = _changes(graph, quantized)
    signal, sums = _measure(graph, changes, batch, progress)
    results = [
        Sensitivity(name, what, decibels(signal, float(noise)), float(same) / len(batch))
        for (name, what, _), (noise, same) in zip(changes, sums, strict=True)
    ]
    return sorted(results, key=lambda r: r.signal_to_noise_db)


def tensor_noise(
    graph: Graph,
    quantized: Graph,
    batch: np.ndarray,
    names: Sequence[str],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Squared error of the first output, over signal, as each of some 8-bit tensors alone is rounded."""
    stored = (n for n in names if quantized.tensor(n).dtype == "int8")
    changes = [(name, "activation", _rounded(name, quantized.tensor(name))) for name in stored]
    signal, sums = _measure(graph, changes, batch, progress)
    return {
        name: float(noise) / max(signal, 1e-30)
        for (name, _, _), (noise, _) in zip(changes, sums, strict=True)
    }


def _measure(
    graph: Graph,
    changes: Sequence[tuple[str, str, Change]],
    batch: np.ndarray,
    progress: Progress | None,
) -> tuple[float, np.ndarray]:
    """The first output's sum of squares; and for each change the error's, and how many inputs agree."""
    total = -(-len(batch) // _AT_ONCE) * len(changes)
    sums = np.zeros((len(changes), 2))
    signal = 0.0
    for start in range(0, len(batch), _AT_ONCE):
        values = dict(batched.trace_float(graph, batch[start : start + _AT_ONCE]))
        want = values[graph.outputs[0]]
        signal += float(np.square(want, dtype=np.float64).sum())
        for i, (_, _, change) in enumerate(changes):
            got = _resume(graph, values, change(values))
            sums[i] += np.square(got - want, dtype=np.float64).sum(), _same(got, want)
            if progress:
                progress("sensitivity", start // _AT_ONCE * len(changes) + i + 1, total)
    return signal, sums


def _changes(graph: Graph, quantized: Graph) -> list[tuple[str, str, Change]]:
    """Name, what, and the tensors that differ once it is quantised."""
    names = set(graph.tensors) & set(quantized.tensors)
    found: list[tuple[str, str, Change]] = []
    for name in (n for n in graph.tensors if n in names):
        tensor = quantized.tensor(name)
        wide = tensor.dtype == "int16" and name not in graph.outputs
        if tensor.quant is not None and tensor.dtype in _LEVELS and not wide:
            found.append((name, "activation", _rounded(name, tensor)))
    convs = {n.name: n for n in quantized.nodes if isinstance(n, q.QConv)}
    for node in graph.nodes:
        if isinstance(node, f.Conv2d) and node.name in convs and node.inputs[0] in names:
            weight, bias = real_parameters(quantized, convs[node.name])
            found.append((node.name, "weights", _computed(graph, replace(node, weight=weight, bias=bias))))
    return found


def _rounded(name: str, tensor: Tensor) -> Change:
    quant = tensor.quant
    assert quant is not None
    return lambda values: {name: fake_quantize(values[name], quant, tensor.dtype)}


def _computed(graph: Graph, node: f.Conv2d) -> Change:
    return lambda values: {node.output: batched.float_node(graph, node, [values[node.inputs[0]]])}


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


def _same(got: np.ndarray, want: np.ndarray) -> int:
    """How many inputs have the same largest output."""
    return int((got.reshape(len(got), -1).argmax(1) == want.reshape(len(want), -1).argmax(1)).sum())
