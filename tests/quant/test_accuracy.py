"""The trained network keeps its answers: 100 labelled images, calibrated on the unlabelled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.evaluate import evaluate, float_engine, integer_engine
from mnv3c.images import Normalization, calibration_inputs
from mnv3c.quant import batched, quantize
from mnv3c.quant.sensitivity import sensitivity

RGB_OVER_255 = Normalization((1 / 255,), (0.0,))


@pytest.mark.slow
def test_small_keeps_its_top1(data: Path) -> None:
    frontend = pytest.importorskip("mnv3c.frontend")
    graph = frontend.load(str(data / "models" / "mobilenet_v3_small_1.0_224_float.onnx"))
    calibration = calibration_inputs(data / "images" / "calibration", graph, RGB_OVER_255)[:32]
    quantized = quantize(graph, calibration, normalization=RGB_OVER_255)
    labelled = data / "images" / "labelled"
    scores = evaluate(
        {
            "float": float_engine(graph, RGB_OVER_255),
            "int8": integer_engine(quantized, graph, RGB_OVER_255),
        },
        labelled,
        labelled / "labels.csv",
        (224, 224, 3),
        reference="float",
        limit=100,
    )
    assert scores["float"].top1 == pytest.approx(0.81, abs=0.011)  # onnxruntime gives 81 of these 100
    assert scores["int8"].top1 >= scores["float"].top1 - 0.04
    assert scores["int8"].agreement is not None and scores["int8"].agreement >= 0.88
    found = sensitivity(graph, quantized, np.stack(calibration[:2]))
    assert len(found) > 100 and found[0].signal_to_noise_db > 10
    assert found == sorted(found, key=lambda s: s.signal_to_noise_db)


def test_sensitivity_of_nothing_rounded_is_high() -> None:
    from .networks import block_network, inputs

    graph = block_network(1)
    data = inputs(graph, 8, 0)
    quantized = quantize(graph, data)
    batch = np.stack(data[:4])
    found = sensitivity(graph, quantized, batch)
    assert {s.what for s in found} == {"activation", "weights"}
    whole = batched.run_float(graph, batch)
    assert np.isfinite(whole).all() and min(s.signal_to_noise_db for s in found) > 15
