"""LiteRT as an engine of ``mnv3c.evaluate`` (onnxruntime is one there)."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mnv3c.evaluate import Engine
from mnv3c.images import Normalization

# The default first; TFLite's built-in kernels for what it refuses.
_ENGINES = {
    "LiteRT (XNNPACK)": OpResolverType.BUILTIN,
    "LiteRT (built-in kernels)": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def litert_engine(path: Path, normalization: Normalization) -> tuple[str, Engine]:
    """A ``.tflite`` file in LiteRT, and which of its engines runs it.

    On one thread: LiteRT's ``MEAN`` depends on the number of threads.

    Args:
        normalization: bytes to what a float input takes; bytes are given as they are.
    """
    name, interpreter = _interpreter(path)
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    alone = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        x = images if source["dtype"] is np.uint8 else normalization.apply(images)
        results = []
        with alone:
            for each in x:
                interpreter.set_tensor(source["index"], each[None])
                interpreter.invoke()
                results.append(interpreter.get_tensor(sink["index"]).ravel())
        scale, zero_point = sink["quantization"]
        values = np.stack(results).astype(np.float32)
        return (values - np.float32(zero_point)) * np.float32(scale) if scale else values

    return name, run


def _interpreter(path: Path) -> tuple[str, Interpreter]:
    for name, engine in _ENGINES.items():
        try:
            interpreter = Interpreter(str(path), experimental_op_resolver_type=engine, num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError):
            continue
        return name, interpreter
    raise SystemExit(f"LiteRT does not load {path.name}")
