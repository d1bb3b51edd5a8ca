"""Every step of the quantiser, one added to the other, on a float network."""

from __future__ import annotations

import time
from pathlib import Path

from accuracy_table.photographs import MODELS
from mnv3c.evaluate import evaluate, float_engine, integer_engine
from mnv3c.frontend import load
from mnv3c.images import calibration_inputs
from mnv3c.quant import Options, quantize

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


def show_steps(name: str, data: Path, limit: int | None) -> None:
    """Print a line for each step, as measured by the integer reference."""
    model, images = MODELS[name], data / "images"
    graph = load(str(data / "models" / model.file))
    calibration = calibration_inputs(images / "calibration", graph, model.normalization)
    engines = {"float": float_engine(graph, model.normalization)}
    seconds = {"float": 0.0}
    for step, options in STEPS.items():
        start = time.perf_counter()
        quantized = quantize(graph, calibration, normalization=model.normalization, options=options)
        seconds[step] = time.perf_counter() - start
        engines[step] = integer_engine(quantized, graph, model.normalization)
    labelled = images / "labelled"
    shape = graph.tensor(graph.inputs[0]).shape
    scores = evaluate(engines, labelled, labelled / "labels.csv", shape, reference="float", limit=limit)
    print(f"{name:20} {'':38} {'top-1':>6} {'top-5':>6} {'agree':>6} {'SQNR':>6} {'seconds':>8}")
    for step, s in scores.items():
        agree = "" if s.agreement is None else f"{100 * s.agreement:.1f}"
        noise = "" if s.signal_to_noise_db is None else f"{s.signal_to_noise_db:.1f}"
        columns = f"{100 * s.top1:6.1f} {100 * s.top5:6.1f} {agree:>6} {noise:>6} {seconds[step]:8.1f}"
        print(f"{name:20} {step:38} {columns}", flush=True)
