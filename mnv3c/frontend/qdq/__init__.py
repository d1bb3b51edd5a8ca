"""ONNX models that come quantised, in QDQ form, to the integer graph."""

from __future__ import annotations

from pathlib import Path

from mnv3c.frontend.qdq.importer import import_qdq
from mnv3c.frontend.qdq.reader import proto, read
from mnv3c.ir.graph import Graph

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")


def load(path: Path | str, *, round_weights: bool = False) -> Graph:
    """The integer graph of a QDQ file; raises ``Mnv3cError`` for what is damaged or unsupported."""
    return import_qdq(read(path), round_weights=round_weights)


def is_quantized(path: Path | str) -> bool:
    """Whether the file has any operator of a quantised model; raises ``Mnv3cError`` if it is no ONNX."""
    return any(n.op_type in _QUANTIZED for n in proto(path).graph.node)
