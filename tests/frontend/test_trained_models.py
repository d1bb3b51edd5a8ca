"""Trained networks: the float graph agrees with onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.frontend.count import macs, parameters
from mnv3c.ir import float_ops as f
from tests.frontend.onnx_models import check_file


def test_small(data: Path) -> None:
    """The trained Small: input normalisation inside, SE gates of 0.16667, TensorFlow's padding."""
    graph = check_file(data / "models" / "mobilenet_v3_small_1.0_224_float.onnx")
    assert graph.name == "mobilenet_v3_small_1_0_224_float"
    assert graph.meta["classes"] == 1001
    assert graph.meta["input_affine"] == {"scale": [2.0] * 3, "shift": [-1.0] * 3}
    assert graph.meta["random_weights"] is False and len(str(graph.meta["sha256"])) == 64
    convs = [n for n in graph if isinstance(n, f.Conv2d)]
    assert len(convs) == 54, "nothing but the model's own convolutions"
    assert convs[0].pad == (0, 0, 1, 1)
    assert sum(isinstance(n, f.Multiply) for n in graph) == 9
    # The zoo's network, which test_zoo counts, with one class more.
    assert macs(graph) == 56_510_400 + 1024
    assert parameters(graph) == 2_536_800 + 1025


@pytest.mark.slow
def test_large_minimalistic(data: Path) -> None:
    graph = check_file(data / "models" / "mobilenet_v3_large_minimalistic_1.0_224_float.onnx")
    assert {n.kind for n in graph if isinstance(n, f.Activation)} == {"clip"}
    assert graph.meta["input_affine"] == {"scale": [1.0] * 3, "shift": [0.0] * 3}


def paddle_model() -> Path:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")  # importing it would import OpenCV
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("rapidocr-onnxruntime is not installed")
    return Path(spec.submodule_search_locations[0]) / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


def test_text_direction_classifier() -> None:
    """Paddle's Small x0.35: batch norm not folded, slope 0.2, dynamic shapes, shape arithmetic, MatMul."""
    graph = check_file(paddle_model(), input_shape=(3, 48, 192))
    assert graph.tensor("input").shape == (48, 192, 3)
    gates = [n for n in graph if isinstance(n, f.Activation) and n.kind == "hard_sigmoid"]
    assert len(gates) == 9 and {(g.slope, g.offset) for g in gates} == {(0.2, 0.5)}
    swish = [n for n in graph if isinstance(n, f.Activation) and n.kind == "hard_swish"]
    assert len(swish) == 18 and {(s.slope, s.offset) for s in swish} == {(1 / 6, 0.5)}
    assert sum(isinstance(n, f.Conv2d) for n in graph) == 54
    assert isinstance(graph.nodes[-1], f.Softmax)


def test_text_direction_classifier_without_a_shape() -> None:
    with pytest.raises(Mnv3cError, match=r"input 'x': dimension 2 \(\?\) is dynamic; give the input shape"):
        load(str(paddle_model()))


@pytest.mark.slow
def test_top1_on_labelled_images(data: Path) -> None:
    """The float graph classifies photographs: the executor and the imported weights are right together."""
    import csv

    from PIL import Image

    from mnv3c.reference.floating import run

    graph = load(str(data / "models" / "mobilenet_v3_small_1.0_224_float.onnx"))
    folder = data / "images" / "labelled"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:10]
    right = 0
    for row in rows:
        name, label = row[next(iter(row))], next(int(v) for k, v in row.items() if "label" in k.lower())
        image = Image.open(folder / name).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        x = np.asarray(image, np.float32) / 255 * 2 - 1
        right += int(run(graph, {"input": x})[graph.outputs[0]].argmax()) == label + 1
    assert right >= 6  # 80 % on all 500
