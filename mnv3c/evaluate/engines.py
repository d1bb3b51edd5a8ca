"""Ways to run a network on a batch of images.

An engine takes bytes ``(N, H, W, C)`` and returns ``(N, classes)`` float32 numbers whose order is that
of the classes' scores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization
from mnv3c.ir.graph import Graph
from mnv3c.quant import batched
from mnv3c.verification.inputs import library_input

Engine = Callable[[np.ndarray], np.ndarray]


def float_engine(graph: Graph, normalization: Normalization | None = None) -> Engine:
    """The float graph in NumPy."""
    mapping = graph_normalization(graph, normalization)
    return lambda images: batched.run_float(graph, mapping.apply(images)).reshape(len(images), -1)


def integer_engine(quantized: Graph, graph: Graph, normalization: Normalization | None = None) -> Engine:
    """The integer graph of primitives in NumPy: the bits of the library.

    Args:
        quantized: what ``quantize`` made of ``graph``.
        normalization: as ``quantize`` was given it.
    """
    mapping = graph_normalization(graph, normalization)
    output = quantized.tensor(quantized.outputs[0])

    def run(images: np.ndarray) -> np.ndarray:
        inputs = library_input(quantized, graph, mapping.apply(images))
        got = batched.run_integer(quantized, inputs).reshape(len(images), -1)
        if output.quant is None:
            return got
        zero_point, scale = np.asarray(output.quant.zero_point), np.asarray(output.quant.scale)
        return ((got.astype(np.int32) - zero_point) * scale).astype(np.float32)

    return run


def onnx_engine(path: Path, normalization: Normalization) -> Engine:
    """An ONNX file of one NCHW image input in onnxruntime.

    Args:
        normalization: bytes to what the file takes.

    Raises:
        Mnv3cError: onnxruntime is not installed, or does not take the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise Mnv3cError("onnxruntime is not installed", "engine") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        raise Mnv3cError(f"onnxruntime: {error}", str(path)) from None
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        x = normalization.apply(images).transpose(0, 3, 1, 2)
        # One at a time: files may have the batch of one written into them.
        results = [session.run(None, {name: np.ascontiguousarray(each[None])})[0] for each in x]
        return np.concatenate(results).reshape(len(images), -1)

    return run
