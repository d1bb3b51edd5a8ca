"""The library's inputs and outputs: what the caller's numbers are and how they become int8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization, input_affine
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Quant, Tensor
from mnv3c.quant.ranges import Affine, symmetric
from mnv3c.quant.state import State


def with_inner_input(graph: Graph, dtype: str) -> Graph:
    """The float graph with its input renamed, where the library converts what it is given first."""
    if dtype == "int8":
        return graph
    name = graph.inputs[0]
    return _rename(graph, name, f"{name}_int8")


def lower_input(
    state: State, batch: np.ndarray, name: str, dtype: str, normalization: Normalization | None
) -> None:
    """Declare the library's input ``name`` and the int8 tensor that the first node reads.

    Raises:
        Mnv3cError: a normalisation that cannot be folded.
    """
    graph = state.source
    inner = graph.inputs[0]
    shape = graph.tensor(inner).shape
    if dtype == "int8":
        a = symmetric(float(np.abs(batch).max()))
    elif dtype == "uint8":
        raw = _bytes(graph_normalization(graph, normalization), shape[2], name)
        state.tensors[name] = Tensor(name, shape, "uint8", _quant(raw, 0, 255))
        state.emit(q.FlipSign(inner, (name,), (inner,)))
        a = Affine(raw.scale, raw.zero_point - 128)
    else:
        a, node = _floats(state, batch, name, inner)
        state.tensors[name] = Tensor(name, shape)
        state.emit(node)
    state.affine[inner] = a
    state.exact[inner] = batch
    state.tensors[inner] = Tensor(inner, shape, "int8", _quant(a, -128, 127))
    state.stored[inner] = np.clip(np.rint(batch / a.scale + a.zero_point), -128, 127).astype(np.int8)


def finish(graph: Graph, dtype: str) -> Graph:
    """Turn integer outputs into floats, if asked for; the outputs keep their names, class numbers stay."""
    if dtype != "float32":
        return graph
    for name in graph.outputs:
        if graph.tensor(name).dtype not in ("int8", "int16"):  # class numbers, or what was detected
            continue
        inner = f"{name}_integer"
        graph = _rename(graph, name, inner)
        tensor = graph.tensor(inner)
        quant = tensor.quant or Quant((1.0,))
        node = q.Dequantize(f"{name}_dequantize", (inner,), (name,), quant.scale, quant.zero_point)
        graph = graph.replace(
            nodes=(*graph.nodes, node),
            tensors={**graph.tensors, name: Tensor(name, tensor.shape)},
            outputs=tuple(name if o == inner else o for o in graph.outputs),
        )
    return graph


def _rename(graph: Graph, old: str, new: str) -> Graph:
    def names(every: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if n == old else n for n in every)

    tensors = {
        (new if k == old else k): (replace(t, name=new) if k == old else t) for k, t in graph.tensors.items()
    }
    nodes = tuple(replace(n, inputs=names(n.inputs), outputs=names(n.outputs)) for n in graph.nodes)
    return replace(
        graph, nodes=nodes, tensors=tensors, inputs=names(graph.inputs), outputs=names(graph.outputs)
    )


def _quant(a: Affine, low: int, high: int) -> Quant:
    """The nearest whole zero point there is, which is what padding reads."""
    return Affine(a.scale, np.clip(a.zero_point, low, high)).quant


def _bytes(mapping: Normalization, channels: int, name: str) -> Affine:
    """Bytes as the graph's input: scale and the byte, whole or not, that stands for zero."""
    scale, shift = mapping.arrays(channels)
    if (scale <= 0).any():
        raise Mnv3cError("a normalisation that is not increasing cannot be folded", name)
    zero = -shift / scale
    if (np.abs(zero) > 2**15).any():
        raise Mnv3cError("the normalisation's mean is far outside of the bytes' range", name)
    if len(np.unique(scale)) == 1 and len(np.unique(zero)) == 1:
        return Affine(scale[:1], zero[:1])
    return Affine(scale, zero)


def _floats(state: State, batch: np.ndarray, name: str, inner: str) -> tuple[Affine, q.Quantize]:
    """Floats as the model file takes them; the step is chosen so that ``input_affine`` folds exactly."""
    scale, shift = input_affine(state.source).arrays(batch.shape[3])
    if (scale <= 0).any():
        raise Mnv3cError("an input scale that is not positive cannot be folded", name)
    step = symmetric(float(np.abs(batch).max())).scale[0]
    whole = np.floor(np.abs(shift) / step)
    steps = np.where(whole > 0, np.abs(shift) / np.maximum(whole, 1), step)
    zero = np.rint(shift / steps)
    if (np.abs(zero) > 127).any():
        raise Mnv3cError("the input's shift is far outside of the calibrated range", name)
    inverse = scale / steps
    if len(np.unique(inverse)) == 1 and len(np.unique(zero)) == 1:
        inverse, zero, steps = inverse[:1], zero[:1], steps[:1]
    node = q.Quantize(inner, (name,), (inner,), tuple(map(float, inverse)), tuple(map(int, zero)))
    return Affine(steps, np.zeros(1)), node
