"""Graphs as text, for people (``--dump-ir``): one line a node, arrays summarised."""

from __future__ import annotations

import dataclasses

import numpy as np

from mnv3c.ir.graph import Graph, Node, Quant, Tensor


def print_graph(graph: Graph) -> str:
    """One line a node, such as ``y: int8 7x7x96 q(0.024, -128) = QConv(x){weight=int8[96,1,1,24]}``."""
    lines = [f"graph {graph.name}({', '.join(_typed(graph, i) for i in graph.inputs)})"]
    for node in graph.nodes:
        targets = ", ".join(_typed(graph, o) for o in node.outputs)
        lines.append(f"  {targets} = {_call(node)}  # {node.name}")
    lines.append(f"  return {', '.join(graph.outputs)}")
    return "\n".join(lines) + "\n"


def _typed(graph: Graph, name: str) -> str:
    tensor = graph.tensor(name)
    quant = f" {_quant(tensor.quant)}" if tensor.quant else ""
    return f"{name}: {tensor.dtype} {shape_text(tensor)}{quant}"


def shape_text(tensor: Tensor) -> str:
    """``HxWxC``."""
    return "x".join(str(n) for n in tensor.shape)


def _quant(quant: Quant) -> str:
    def brief(values: tuple[float, ...] | tuple[int, ...]) -> str:
        if len(values) == 1:
            return f"{values[0]:.6g}"
        return f"{min(values):.6g}..{max(values):.6g} by channel"

    return f"q({brief(quant.scale)}, {brief(quant.zero_point)})"


def _call(node: Node) -> str:
    return f"{type(node).__name__}({', '.join(node.inputs)}){_attributes(node)}"


def _attributes(record: object) -> str:
    """Fields that differ from their default, in braces."""
    parts = []
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        if field.name in ("name", "inputs", "outputs"):
            continue
        value = getattr(record, field.name)
        default = field.default
        if default is not dataclasses.MISSING and value is default:
            continue
        if not isinstance(value, np.ndarray) and value == default:
            continue
        parts.append(f"{field.name}={_value(value)}")
    return "{" + ", ".join(parts) + "}" if parts else ""


def _value(value: object) -> str:
    if isinstance(value, np.ndarray):
        if value.size == 1:
            return f"{value.dtype}[{value.reshape(-1)[0]}]"
        return f"{value.dtype}[{','.join(str(n) for n in value.shape)}]"
    if isinstance(value, Node):
        return _call(value)
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}{_attributes(value)}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
