"""The trained classifiers of photographs, on the labelled images: our integers beside the original."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accuracy_table.peers import litert_engine, static_quantization
from accuracy_table.rows import Check, Row
from mnv3c.evaluate import Engine, Score, evaluate, onnx_engine
from mnv3c.evaluate.libraries import host_engine
from mnv3c.evaluate.subject import open_subject
from mnv3c.images import IDENTITY, Normalization

# (our score, the original's) to what is checked.
Checks = Callable[[Score, Score], tuple[Check, ...]]


@dataclass(frozen=True)
class Model:
    """A trained network of the test data.

    Attributes:
        normalization: bytes to what the file takes.
        calibrated: a float network, which we quantise; otherwise the file comes quantised.
    """

    file: str
    normalization: Normalization
    calibrated: bool
    checks: Checks


def _top1(must: float, aim: float) -> Checks:
    return lambda ours, _: (Check("top-1", 100 * ours.top1, must, aim),)


def _agreement(must: float, aim: float, points: float | None = None) -> Checks:
    """Agreement with the original; ``points``: how far the top-1 may be from its."""

    def checks(ours: Score, original: Score) -> tuple[Check, ...]:
        assert ours.agreement is not None
        agreement = Check("same first answer", 100 * ours.agreement, must, aim)
        if points is None:
            return (agreement,)
        away = 100 * abs(ours.top1 - original.top1)
        return Check("points of top-1 away", away, points, points, at_most=True), agreement

    return checks


UNIT, SIGNED = Normalization((1 / 255,), (0.0,)), Normalization((1 / 127,), (-128 / 127,))
MODELS = {
    "small": Model("mobilenet_v3_small_1.0_224_float.onnx", UNIT, True, _top1(79.0, 80.0)),
    "large-minimalistic": Model(
        "mobilenet_v3_large_minimalistic_1.0_224_float.onnx", SIGNED, True, _top1(80.0, 84.8)
    ),
    "small-qat": Model(
        "mobilenet_v3_small_1.0_224_qat_uint8.tflite", IDENTITY, False, _agreement(97.0, 99.5, 0.6)
    ),
    "large-minimalistic-qat": Model(
        "mobilenet_v3_large_minimalistic_1.0_224_qat_uint8.tflite",
        IDENTITY,
        False,
        _agreement(97.0, 99.5, 0.6),
    ),
    "small-ptq": Model("mobilenet_v3_small_1.0_224_ptq_int8.tflite", UNIT, False, _agreement(95.0, 99.0)),
    "small-qdq": Model("mobilenet_v3_small_1.0_224_qat_qdq.onnx", SIGNED, False, _agreement(97.0, 99.5)),
}


def measure(name: str, data: Path, limit: int | None, peers: bool) -> Row:
    """Classify the labelled images by the original and by the C that we generate for the network.

    The C is that of the path ``ref``, built for this machine; every other path gives the same bits.

    Args:
        data: the folder of ``models`` and ``images``.
        limit: take only the first so many images.
        peers: let onnxruntime quantise the float networks as well, and remark on its top-1.
    """
    model, images = MODELS[name], data / "images"
    start = time.perf_counter()
    subject = open_subject(
        str(data / "models" / model.file),
        calibration=images / "calibration" if model.calibrated else None,
        quantize=model.calibrated,
        normalize=model.normalization,
    )
    original, engine = _original(data / "models" / model.file, model.normalization)
    with host_engine(subject, workers=1) as (ours, _), tempfile.TemporaryDirectory() as work:
        others = {}
        if peers and model.calibrated:
            file = data / "models" / model.file
            others = static_quantization(file, images / "calibration", model.normalization, Path(work))
        scores = evaluate(
            {"original": engine, "ours": ours, **others},
            images / "labelled",
            images / "labelled" / "labels.csv",
            subject.shape,
            reference="original",
            limit=limit,
            workers=1,
        )
    got, want = scores["ours"], scores["original"]
    return Row(
        model=name,
        original=original,
        original_top1=100 * want.top1,
        our_top1=100 * got.top1,
        checks=model.checks(got, want),
        # Others end in a softmax that ours leave out.
        signal_to_noise_db=got.signal_to_noise_db if model.calibrated else None,
        images=got.images,
        seconds=time.perf_counter() - start,
        remark=", ".join(f"{other} {100 * scores[other].top1:.1f}" for other in others),
    )


def _original(path: Path, normalization: Normalization) -> tuple[str, Engine]:
    if path.suffix == ".tflite":
        return litert_engine(path, normalization)
    return "onnxruntime", onnx_engine(path, normalization)
