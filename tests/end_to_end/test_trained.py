"""The trained networks of the shared data, from file to Arm code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mnv3c
from mnv3c.images import network_inputs, read_labels
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph
from mnv3c.paths import registry
from mnv3c.reference import integer
from mnv3c.runners import open_library, open_runner

SMALL = "mobilenet_v3_small_1.0_224_float.onnx"


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "small"
    mnv3c.compile(data / "models" / SMALL, "arm64", folder, calibration=data / "images" / "calibration")
    return folder


def labelled(data: Path, folder: Path, count: int) -> tuple[Graph, list[np.ndarray], list[int]]:
    """The integer graph, the library's int8 inputs of the first labelled images, and their labels."""
    graph = serialize.load(folder / "reference" / "integer.npz")
    network = serialize.load(folder / "reference" / "float.npz")
    rows = read_labels(data / "images" / "labelled" / "labels.csv")[:count]
    quant = graph.tensor(graph.inputs[0]).quant
    assert quant is not None
    scale, zero_point = np.asarray(quant.scale, np.float32), np.asarray(quant.zero_point)
    files = [data / "images" / "labelled" / file for file, _ in rows]
    inputs = [
        np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)
        for x in network_inputs(files, network, crop=False)
    ]
    return graph, inputs, [label for _, label in rows]


@pytest.mark.slow
def test_emulated_library_and_reference_agree_on_twenty_images(data: Path, small: Path) -> None:
    graph, inputs, _ = labelled(data, small, 20)
    opened = open_library(small)
    for path in opened.paths:
        if path == "i8mm":
            continue  # its instructions are not in the in-process emulator; tests/paths runs it
        assert path in registry.available()
        runner = open_runner(opened, path)
        for x in inputs:
            want = integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
            np.testing.assert_array_equal(runner.run([x])[0], want, err_msg=path)


@pytest.mark.slow
def test_top1_of_the_small_network(data: Path, small: Path, tmp_path: Path) -> None:
    """100 labelled images through the C code on this machine; float reaches 80 %, naive int8 29 to 45 %."""
    mnv3c.compile(
        data / "models" / SMALL,
        "portable",
        tmp_path / "ref",
        path="ref",
        calibration=data / "images" / "calibration",
    )
    graph, inputs, labels = labelled(data, tmp_path / "ref", 100)
    runner = open_runner(open_library(tmp_path / "ref"), "ref", "host")
    background = graph.tensor(graph.outputs[0]).shape[2] - 1000
    answers = [int(np.argmax(runner.run([x])[0])) - background for x in inputs]
    assert np.mean([a == b for a, b in zip(answers, labels, strict=True)]) >= 0.74
