"""Float graphs rewritten before they are quantised: the same function in forms that integers like."""

from __future__ import annotations

import dataclasses

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.quant.groups import gate_source
from mnv3c.reference.spatial import transposed_pad, turned


def prepare(graph: Graph) -> Graph:
    """All rewrites of this module, in order; names of outputs stay."""
    return orient_gates(convolve_first(plain_convolutions(find_gates(graph))))


def find_gates(graph: Graph) -> Graph:
    """A clip to [0, h] that is then divided by h as a hard sigmoid, its offset in the layer before.

    TensorFlow writes ``relu6(x) * 0.16667``; what that exceeds one by is less than a 16-bit gate shows.
    """
    nodes: list[Node] = []
    absorbed: set[str] = set()
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        scale = graph.sole_consumer(node.output, f.Conv2d)
        if isinstance(node, f.Activation) and scale is not None:
            clips = node.kind == "clip" and node.low == 0 < node.high < np.inf
            if clips and _multiplies_by(scale, 1 / node.high):
                absorbed.add(scale.name)
                node = f.Activation(
                    node.name, node.inputs, scale.outputs, "hard_sigmoid", slope=1 / node.high, offset=0.0
                )
            elif node.kind == "hard_sigmoid" and _multiplies_by(scale, 1.0):
                absorbed.add(scale.name)
                node = dataclasses.replace(node, outputs=scale.outputs)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))


def _multiplies_by(conv: f.Conv2d, factor: float) -> bool:
    """Whether a convolution is one number times each value, within 1e-4 of ``factor``."""
    alone = conv.weight.shape[1:] == (1, 1, 1) and conv.groups == conv.weight.shape[0]
    close = np.allclose(conv.weight, factor, rtol=1e-4, atol=0.0)
    return alone and close and _pixel_by_pixel(conv) and not conv.bias.any()


def plain_convolutions(graph: Graph) -> Graph:
    """A transposed convolution as pixels set apart and a plain one with the kernel turned round."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if not isinstance(node, f.TransposedConv2d):
            nodes.append(node)
            continue
        height, width, channels = graph.tensor(node.inputs[0]).shape
        pad, name = transposed_pad(node), f"{node.output}_apart"
        rows = (height - 1) * node.stride[0] + 1 + pad[0] + pad[2]
        columns = (width - 1) * node.stride[1] + 1 + pad[1] + pad[3]
        tensors[name] = Tensor(name, (rows, columns, channels))
        nodes.append(f.Spread(name, node.inputs, (name,), node.stride, pad))
        nodes.append(f.Conv2d(node.name, (name,), node.outputs, turned(node.weight), node.bias))
    return graph.replace(nodes=tuple(nodes), tensors=tensors)


def convolve_first(graph: Graph) -> Graph:
    """A 1x1 convolution in front of the enlargement that it reads.

    Interpolation is linear and its weights add up to one, so that the two can change places, bias and
    all; the convolution then computes the small map. Repeated until nothing changes.

    Before::

        t = Resize(x); y = Conv2d 1x1 (t)

    After::

        t' = Conv2d 1x1 (x); y = Resize(t')
    """
    for resize in graph.nodes:
        if not isinstance(resize, f.Resize):
            continue
        conv = graph.sole_consumer(resize.output, f.Conv2d)
        if conv is None or not _pixel_by_pixel(conv):
            continue
        x, big = graph.tensor(resize.inputs[0]), graph.tensor(resize.output)
        if big.elements < x.elements:
            continue
        small = f"{conv.output}_small"
        tensors = {**graph.tensors, small: Tensor(small, (*x.shape[:2], conv.weight.shape[0]))}
        swapped: dict[str, Node] = {
            resize.name: dataclasses.replace(conv, inputs=resize.inputs, outputs=(small,)),
            conv.name: dataclasses.replace(resize, inputs=(small,), outputs=conv.outputs),
        }
        nodes = tuple(swapped.get(n.name, n) for n in graph.nodes)
        return convolve_first(graph.replace(nodes=nodes, tensors=tensors))
    return graph


def _pixel_by_pixel(conv: f.Conv2d) -> bool:
    return (
        conv.weight.shape[1:3] == (1, 1)
        and conv.stride == (1, 1)
        and not any(conv.pad)
        and conv.weight.shape[0] <= conv.weight.shape[3] * conv.groups
    )


def orient_gates(graph: Graph) -> Graph:
    """The gate of a product as its second operand; a vector there stays, which makes a gate of any kind."""

    def turn(node: Node) -> Node:
        if isinstance(node, f.Multiply) and gate_source(graph, node.inputs[0]) is not None:
            a, b = (graph.tensor(i).shape for i in node.inputs)
            if (a == b or b[:2] != (1, 1)) and gate_source(graph, node.inputs[1]) is None:
                return dataclasses.replace(node, inputs=node.inputs[::-1])
        return node

    return graph.map_nodes(turn)


def softmaxes_of_argmax(graph: Graph) -> tuple[f.Softmax, ...]:
    """Softmaxes whose greatest channels alone are asked for."""
    return tuple(
        n
        for n in graph.nodes
        if isinstance(n, f.Softmax) and n.groups == 1 and n.output not in graph.outputs
        if all(isinstance(u, f.ArgMax) for u in graph.consumers(n.output))
    )


def bypass(graph: Graph, node: Node) -> Graph:
    """The graph without ``node``, whose readers read what it read."""
    return graph.replace(nodes=tuple(n for n in graph.nodes if n is not node)).map_nodes(
        lambda n: dataclasses.replace(
            n, inputs=tuple(node.inputs[0] if i == node.output else i for i in n.inputs)
        )
    )


def wide_tensors(graph: Graph, output_dtype: str) -> frozenset[str]:
    """Tensors to keep in 16 bits up to the library's outputs or an argmax: logits, and what becomes them.

    A convolution without an activation, a softmax, a resize and the sum of two such can write 16 bits; an
    output (unless the library returns int8), an argmax and again a resize or such a sum can read them.
    """
    wide = {t for t in graph.tensors if t not in graph.inputs}
    while True:
        kept = {t for t in wide if _reads_wide(graph, t, wide, output_dtype) and _writes_wide(graph, t, wide)}
        if kept == wide:
            return frozenset(wide)
        wide = kept


def _reads_wide(graph: Graph, tensor: str, wide: set[str], output_dtype: str) -> bool:
    users = graph.consumers(tensor)
    if tensor in graph.outputs and (users or output_dtype == "int8"):
        return False
    return all(
        isinstance(u, f.ArgMax) or (isinstance(u, f.Resize | f.Add) and u.output in wide) for u in users
    )


def _writes_wide(graph: Graph, tensor: str, wide: set[str]) -> bool:
    node = graph.producer(tensor)
    if isinstance(node, f.Conv2d | f.Softmax):
        return True
    return isinstance(node, f.Resize | f.Add) and all(i in wide for i in node.inputs)
