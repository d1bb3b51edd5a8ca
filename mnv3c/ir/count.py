"""Multiply-accumulates and parameters of a graph, as the papers count them."""

from __future__ import annotations

from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of the convolutions in ``node``; every other operator counts as none."""
    conv = node.conv if isinstance(node, q.FusedConv) else node
    if not isinstance(conv, f.Conv2d | q.QConv):
        return 0
    height, width, _ = graph.tensor(node.outputs[0]).shape
    return height * width * int(conv.weight.size)


def parameters(node: Node) -> int:
    """Weights and biases of the convolutions in ``node``."""
    conv = node.conv if isinstance(node, q.FusedConv) else node
    return int(conv.weight.size + conv.bias.size) if isinstance(conv, f.Conv2d | q.QConv) else 0


def total_macs(graph: Graph) -> int:
    return sum(macs(graph, n) for n in graph.nodes)


def total_parameters(graph: Graph) -> int:
    return sum(parameters(n) for n in graph.nodes)


def count_classes(graph: Graph) -> int:
    """Channels of the first output, or of what it is the argmax of."""
    node = graph.producer(graph.outputs[0])
    name = node.inputs[0] if isinstance(node, f.ArgMax | q.QArgMax) else graph.outputs[0]
    return graph.tensor(name).shape[2]
