"""Accuracy of the quantised networks on the labelled images, beside float: ``python benchmarks/accuracy.py``.

Needs the test data (``MNV3C_DATA``, or ``../shared/data`` beside the repository). Calibrates on
``images/calibration`` only, and scores on ``images/labelled``: the whole image resized, bilinear.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from mnv3c.evaluate import evaluate, float_engine, integer_engine
from mnv3c.frontend import load
from mnv3c.images import Normalization, calibration_inputs
from mnv3c.quant import Options, quantize

MODELS = {
    "small": ("mobilenet_v3_small_1.0_224_float.onnx", Normalization((1 / 255,), (0.0,))),
    "large-minimalistic": (
        "mobilenet_v3_large_minimalistic_1.0_224_float.onnx",
        Normalization((1 / 127,), (-128 / 127,)),
    ),
}
# Each adds to the one before.
STEPS: dict[str, Options | None] = {
    "one scale a tensor, min-max, nearest": Options(
        ranges="minmax", per_channel=False, rounding="nearest", bias_correction=False
    ),
    "+ bias correction": Options(ranges="minmax", per_channel=False, rounding="nearest"),
    "+ scales a channel": Options(ranges="minmax", rounding="nearest"),
    "+ ranges of least error": Options(rounding="nearest"),
    "+ rounding by reconstruction": Options(),
    "default": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("MNV3C_DATA", Path(__file__).parents[2] / "shared/data")
    )
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--limit", type=int, help="score on the first so many images")
    parser.add_argument(
        "--steps", action="store_true", help="every step of the quantiser, not only the default"
    )
    args = parser.parse_args()
    images, data = Path(args.data) / "images", Path(args.data)
    print(f"{'model':20} {'':38} {'top-1':>6} {'top-5':>6} {'agree':>6} {'SQNR':>6} {'seconds':>8}")
    for model in args.model or MODELS:
        file, normalization = MODELS[model]
        graph = load(str(data / "models" / file))
        calibration = calibration_inputs(images / "calibration", graph, normalization)
        engines = {"float": float_engine(graph, normalization)}
        seconds = {"float": 0.0}
        for step, options in STEPS.items():
            if args.steps or step == "default":
                start = time.perf_counter()
                quantized = quantize(graph, calibration, normalization=normalization, options=options)
                seconds[step] = time.perf_counter() - start
                engines[step] = integer_engine(quantized, graph, normalization)
        labelled = images / "labelled"
        shape = graph.tensor(graph.inputs[0]).shape
        scores = evaluate(
            engines, labelled, labelled / "labels.csv", shape, reference="float", limit=args.limit
        )
        for step, s in scores.items():
            agree = "" if s.agreement is None else f"{100 * s.agreement:.1f}"
            noise = "" if s.signal_to_noise_db is None else f"{s.signal_to_noise_db:.1f}"
            columns = f"{100 * s.top1:6.1f} {100 * s.top5:6.1f} {agree:>6} {noise:>6} {seconds[step]:8.1f}"
            print(f"{model:20} {step:38} {columns}", flush=True)


if __name__ == "__main__":
    main()
