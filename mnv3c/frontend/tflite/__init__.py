"""TFLite flatbuffers: quantised ones to the integer graph, float ones to the float graph."""

from __future__ import annotations

from pathlib import Path

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.tflite.floating import load_float
from mnv3c.frontend.tflite.quantized import import_quantized
from mnv3c.frontend.tflite.reader import Model, read
from mnv3c.ir.graph import Graph

__all__ = ["has_integer_products", "is_quantized", "load", "load_float"]

_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def load(path: Path | str, *, round_weights: bool = False, round_twice: bool | None = None) -> Graph:
    """The integer graph of a quantised file; raises ``Mnv3cError`` for what is damaged or unsupported."""
    return import_quantized(read(path), round_weights=round_weights, round_twice=round_twice)


def is_quantized(path: Path | str) -> bool:
    """Whether any convolution of the file has integer operands; raises ``Mnv3cError`` as ``load``."""
    return has_integer_products(read(path))


def has_integer_products(model: Model) -> bool:
    operands = [
        model.tensors[i] for op in model.operators if op.name in _PRODUCTS for i in op.inputs[:2] if i >= 0
    ]
    if not operands:
        raise Mnv3cError("has no convolution", model.path)
    return any(t.dtype in ("uint8", "int8", "int16") for t in operands)
