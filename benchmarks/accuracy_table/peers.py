"""LiteRT as an engine of ``mnv3c.evaluate`` (onnxruntime is one there), and onnxruntime's quantiser."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

from mnv3c.evaluate import Engine, onnx_engine
from mnv3c.images import Normalization, list_images, load_image

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


class _Images(CalibrationDataReader):
    """Calibration images one after the other, as we calibrate: the largest centred square, resized."""

    def __init__(self, model: Path, folder: Path, normalization: Normalization) -> None:
        value = onnx.load(str(model)).graph.input[0]
        channels, height, width = (d.dim_value for d in value.type.tensor_type.shape.dim[1:])
        images = (load_image(p, (height, width, channels), crop=True) for p in list_images(folder))
        inputs = (normalization.apply(i).transpose(2, 0, 1)[None] for i in images)
        self._feeds = ({value.name: np.ascontiguousarray(x)} for x in inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def static_quantization(
    model: Path, calibration: Path, normalization: Normalization, work: Path
) -> dict[str, Engine]:
    """onnxruntime's static quantisation of a float ONNX file, per channel, by two methods of calibration.

    Args:
        calibration: folder of images.
        work: folder for the quantised files.
    """
    engines = {}
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Percentile):
        file = work / f"{method.name}.onnx"
        reader = _Images(model, calibration, normalization)
        quantize_static(str(model), str(file), reader, per_channel=True, calibrate_method=method)
        engines[f"onnxruntime static, {method.name}"] = onnx_engine(file, normalization)
    return engines
