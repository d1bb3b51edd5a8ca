"""The trained LR-ASPP files: pixels that agree with LiteRT and with float, on two street photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3c.frontend import load
from mnv3c.frontend.quantized import load as load_quantized
from mnv3c.reference import floating, integer

Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
NAME = "lraspp_mobilenet_v3_small_513x1025"


def file(kind: str, data: Path) -> str:
    return str(data / "models" / f"{NAME}_{kind}")


def photos(data: Path) -> Iterator[np.ndarray]:
    for path in sorted((data / "images" / "street").iterdir()):
        with Image.open(path) as opened:
            yield np.asarray(opened.convert("RGB").resize((1025, 513), Image.Resampling.BILINEAR))


def litert(path: str, x: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_float_files_agree_with_litert(data: Path, suffix: str) -> None:
    graph = load(file(f"float.{suffix}", data))
    assert graph.meta["classes"] == 5
    for photo in photos(data):
        x = photo.astype(np.float32) / 128 - 1
        want = litert(file("float.tflite", data), x)
        affine = graph.meta.get("input_affine", {"scale": 1.0, "shift": 0.0})
        fed = (x * np.asarray(affine["scale"]) + np.asarray(affine["shift"])).astype(np.float32)
        got = floating.run(graph, {graph.inputs[0]: fed})[graph.outputs[0]][..., 0]
        assert (got == want).mean() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qat_uint8", "ptq_int8"])
def test_quantised_files_agree_with_litert(data: Path, kind: str) -> None:
    path = file(f"{kind}.tflite", data)
    graph = load_quantized(path)
    for photo in photos(data):
        got = integer.run(graph, {graph.inputs[0]: photo})[graph.outputs[0]][..., 0]
        assert (got == litert(path, photo)).mean() >= 0.98
