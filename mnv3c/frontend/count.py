"""Multiply-accumulates and parameters of a float graph, as papers count them."""

from __future__ import annotations

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Node


def macs_of(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one node; only convolutions and fully connected layers have any."""
    if not isinstance(node, f.Conv2d):
        return 0
    height, width, _ = graph.tensor(node.output).shape
    return height * width * node.weight.size


def macs(graph: Graph) -> int:
    """Multiply-accumulates of the network.

    MobileNetV3-Large 1.0/224 has 216.6 M, Small 56.5 M; the paper's Table 3 says 219 M and 56 M
    ("MAdds"). Large's 1 % more is the paper's own count, which published implementations do not reach
    either (torchvision's model summary says 0.22 and 0.06 G).
    """
    return sum(macs_of(graph, n) for n in graph.nodes)


def parameters(graph: Graph) -> int:
    """Weights and biases, batch norm folded: one bias a channel where training has a scale and a shift."""
    return sum(n.weight.size + n.bias.size for n in graph.nodes if isinstance(n, f.Conv2d))
