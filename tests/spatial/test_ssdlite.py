"""SSDLite of the zoo: the paper's sizes, onnxruntime on the same parameters, every path to the boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import mnv3c
from mnv3c.frontend import load
from mnv3c.frontend.count import macs, parameters
from mnv3c.frontend.zoo.anchors import anchors
from mnv3c.frontend.zoo.architecture import Detector
from mnv3c.quant import batched, quantize
from mnv3c.reference import integer
from mnv3c.reference.floating import run
from tests.spatial.ssdlite import onnx_model, random_state


# Table 6 of MobileNetV3 (rows with halved channels) and Table 6 of MobileNetV2.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions", "millions"),
    [("mobilenet_v3_large", 0.51, 3.22), ("mobilenet_v3_small", 0.16, 1.77), ("mobilenet_v2", 0.80, 4.3)],
)
def test_size_is_the_papers(name: str, billions: float, millions: float) -> None:
    """V2's parameters are 4 % above what its paper says, which does not give the head's classes."""
    graph = load(f"ssdlite_{name}")
    assert round(macs(graph) / 1e9, 2) == billions
    assert parameters(graph) / 1e6 == pytest.approx(millions, rel=0.045 if name.endswith("v2") else 0.005)


def test_is_the_network_that_onnxruntime_runs(tmp_path: Path) -> None:
    state, size = random_state(4), 96
    np.savez(tmp_path / "weights.npz", **state)
    graph = load("ssdlite_mobilenet_v2", resolution=size, weights=str(tmp_path / "weights.npz"))
    model = onnx_model(state, size).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).normal(0, 1, (size, size, 3)).astype(np.float32)
    wanted = session.run(None, {"x": image.transpose(2, 0, 1)[None]})
    got = run(graph, {"input": image})
    assert len(graph.outputs) == len(wanted) == 12
    for name, want in zip(graph.outputs, wanted, strict=True):
        np.testing.assert_allclose(got[name], want[0].transpose(1, 2, 0), atol=1e-3 * np.abs(want).max())


def test_anchors() -> None:
    """2,034 on the six maps of 320x320; scales 0.2 to 0.95 by steps of 0.15."""
    maps = [(n, n) for n in (20, 10, 5, 3, 2, 1)]
    found = anchors(Detector(), maps)
    assert found.shape == (2034, 4)
    np.testing.assert_allclose(found[0], [0.025, 0.025, 0.1, 0.1])
    np.testing.assert_allclose(found[1], [0.025, 0.025, 0.2 / 2**0.5, 0.2 * 2**0.5])
    np.testing.assert_allclose(found[3][:2], [0.025, 0.075])
    np.testing.assert_allclose(found[1200], [0.05, 0.05, 0.35, 0.35])
    np.testing.assert_allclose(found[1205], [0.05, 0.05, (0.35 * 0.5) ** 0.5, (0.35 * 0.5) ** 0.5])
    np.testing.assert_allclose(found[-6], [0.5, 0.5, 0.95, 0.95])
    np.testing.assert_allclose(found[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2"])
def test_every_path_is_bit_equal(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    library = mnv3c.compile(f"ssdlite_{name}_0.35_64", "arm64", folder, classes=3, input_dtype="uint8")
    outputs = [(t["name"], t["shape"], t["dtype"]) for t in library.manifest["outputs"]]
    assert outputs == [
        ("boxes", [1, 100, 4], "float32"),
        ("scores", [1, 100, 1], "float32"),
        ("classes", [1, 100, 1], "uint8"),
        ("count", [1, 1, 1], "int32"),
    ]
    result = mnv3c.verify(folder, count=1)
    assert result.ok and {p.path for p in result.paths} == {"i8mm", "dotprod", "neon"}


def test_batches_are_detected_image_by_image() -> None:
    graph = quantize(load("ssdlite_mobilenet_v3_small_0.35_32", classes=2), input_dtype="uint8")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    got = batched.run_integer(graph, images)
    for image, boxes in zip(images, got, strict=True):
        np.testing.assert_array_equal(boxes, integer.run(graph, {graph.inputs[0]: image})["boxes"])
