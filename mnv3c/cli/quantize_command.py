"""``mnv3c quantize``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.cli.eval_command import facts as score_facts
from mnv3c.cli.eval_command import tell as tell_scores
from mnv3c.cli.eval_command import tell_worst
from mnv3c.cli.model_options import model_options, normalize_options, parse_normalization, parse_shape
from mnv3c.cli.output import Output, json_option, plain
from mnv3c.cli.quantize_options import (
    clipping_option,
    cost_rows,
    mixed_facts,
    mixed_option,
    tell_mixed,
)
from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    import numpy as np

    from mnv3c.cli.output import Progress
    from mnv3c.evaluate import Score
    from mnv3c.evaluate.subject import Subject
    from mnv3c.ir.graph import Graph
    from mnv3c.quant.report import Layer
    from mnv3c.quant.sensitivity import Sensitivity

_WORKERS = 2
_REPORT_INPUTS = 16
_REPORT_ELEMENTS = 1 << 26  # every tensor of all of them is held in memory, twice
_SHOWN = 10


@click.command()
@click.argument("model")
@click.option("--calibration", metavar="DIR|NPY", help="Images, or an array of inputs, to choose scales by.")
@click.option("-o", "--output", "file", metavar="FILE.mnv3q", help="Write the quantised network there.")
@click.option("--images", metavar="DIR", help="Labelled images to score float and int8 on.")
@click.option("--labels", metavar="CSV", help="Their classes: the columns file and label_0based.")
@click.option("--limit", type=click.IntRange(1), help="Score only the first so many.")
@click.option("--report", "page", metavar="FILE.html", help="Write layers and histograms as one page.")
@click.option("--export-onnx", "onnx_file", metavar="FILE.onnx", help="Write the network in QDQ form.")
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(["int8", "uint8", "float32"]),
    default="int8",
    show_default=True,
    help="What the library will take: symmetric int8, camera bytes, or floats.",
)
@click.option(
    "--output-type",
    "output_dtype",
    type=click.Choice(["int16", "int8", "float32"]),
    default="int16",
    show_default=True,
    help="What it will return.",
)
@mixed_option
@clipping_option
@click.option(
    "--target",
    default="cortex-a53",
    show_default=True,
    help="For which --mixed counts its cost: a name that `mnv3c targets` lists.",
)
@normalize_options
@model_options
@json_option
def command(
    model: str,
    calibration: str | None,
    file: str | None,
    images: str | None,
    labels: str | None,
    limit: int | None,
    page: str | None,
    onnx_file: str | None,
    input_dtype: str,
    output_dtype: str,
    mixed: int | None,
    clipping: str | None,
    target: str,
    normalize: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantise MODEL, a float network, and say how far its answers are from float.

    FILE.mnv3q is compiled later with `mnv3c compile FILE.mnv3q`.
    """
    output = Output(as_json)
    if (images is None) != (labels is None):
        raise Mnv3cError("--images and --labels go together", "--images" if images is None else "--labels")
    if file is not None and not file.endswith(".mnv3q"):
        raise Mnv3cError(f"{file!r} does not end in .mnv3q, by which it will be recognised", "--output")
    for option, name in (("--output", file), ("--report", page), ("--export-onnx", onnx_file)):
        if name is not None and not Path(name).absolute().parent.is_dir():
            raise Mnv3cError(f"no folder {Path(name).parent} to write to", option)
    options["input_shape"] = parse_shape(options["input_shape"])
    mapping = parse_normalization(normalize, mean, std)
    began = time.monotonic()
    from mnv3c import api
    from mnv3c.evaluate.subject import Subject
    from mnv3c.images import calibration_inputs
    from mnv3c.quant import file as quantized_file

    if api.comes_quantized(model):
        raise Mnv3cError("comes quantised; compile it as it is", model)
    with output.progress() as progress:
        progress("read the model", 0, 1)
        network = api.load(model, **options)
        inputs = None if calibration is None else calibration_inputs(Path(calibration), network, mapping)
        progress("read the model", 1, 1)
        integer = api.quantize(
            network,
            inputs,
            input_dtype=input_dtype,
            output_dtype=output_dtype,
            normalize=mapping,
            seed=options["seed"],
            mixed=mixed,
            clipping=clipping,
            target=target,
            progress=progress,
        )
        subject = Subject(network.name, integer, network, None, mapping, api.notes(integer))
        if file is not None:
            quantized_file.save(file, integer, network)
        if onnx_file is not None:
            from mnv3c.quant.export_onnx import save

            save(integer, Path(onnx_file))
        found, alone = _examine(
            network, integer, inputs, mapping, page is not None, options["seed"], progress
        )
        scores: dict[str, Score] = {}
        if images is not None and labels is not None:
            scores = _score(subject, Path(images), Path(labels), limit, progress)
    written = [name for name in (file, onnx_file, page) if name is not None]
    if page is not None:
        from mnv3c.quant import report

        report.write(Path(page), f"{network.name}, quantised", _heading(subject, scores), found, alone)
    for note in subject.notes:
        output.note(note)
    output.result(
        {
            "ok": True,
            "name": network.name,
            "written": written,
            "quantization": integer.meta["quantization"],
            "scores": {name: score_facts(s) for name, s in scores.items()},
            "layers": [
                {"name": x.name, "dtype": x.dtype, "signal_to_noise_db": x.signal_to_noise_db} for x in found
            ],
            "sensitivity": [vars(s) for s in alone],
            "notes": list(subject.notes),
            "seconds": round(time.monotonic() - began, 3),
        }
    )
    _tell(output, subject, scores, found, alone)
    for name in written:
        output.text(f"wrote {plain(name)}")


def _examine(
    network: Graph,
    integer: Graph,
    inputs: list[np.ndarray] | None,
    mapping: Any,
    alone: bool,
    seed: int,
    progress: Progress,
) -> tuple[tuple[Layer, ...], list[Sensitivity]]:
    """Layers on a few calibration inputs; and, which takes longer, what each does alone."""
    import numpy as np

    from mnv3c.images import graph_normalization, random_inputs
    from mnv3c.quant.report import layers
    from mnv3c.quant.sensitivity import sensitivity
    from mnv3c.verification.errors import without_softmax

    shape = network.tensor(network.inputs[0]).shape
    elements = sum(tensor.elements for tensor in network.tensors.values())
    count = min(_REPORT_INPUTS, max(2, _REPORT_ELEMENTS // elements))
    if inputs is None:
        batch = random_inputs(shape, count, seed, graph_normalization(network, mapping))
    else:
        chosen = np.unique(np.linspace(0, len(inputs) - 1, count).astype(int))
        batch = np.stack([inputs[i] for i in chosen]).astype(np.float32)
    found = layers(network, integer, batch, progress)
    return found, sensitivity(without_softmax(network), integer, batch, progress) if alone else []


def _score(
    subject: Subject, images: Path, labels: Path, limit: int | None, progress: Progress
) -> dict[str, Score]:
    from mnv3c.evaluate import evaluate
    from mnv3c.evaluate.libraries import host_engine

    with host_engine(subject, _WORKERS) as (engine, _):
        engines = {"float": subject.float_engine(), "int8": engine}
        return evaluate(
            engines,
            images,
            labels,
            subject.shape,
            reference="float",
            limit=limit,
            workers=_WORKERS,
            progress=progress,
        )


def _heading(subject: Subject, scores: Mapping[str, Score]) -> dict[str, str]:
    stated = _quantization(subject)
    facts = {
        "calibration images": str(stated["calibration_images"]),
        "input": stated["input_dtype"],
        "output": stated["output_dtype"],
        "seed": str(stated["seed"]),
    }
    for name, s in scores.items():
        agreement = "" if s.agreement is None else f", agrees with float on {s.agreement:.1%}"
        facts[name] = f"top-1 {s.top1:.1%}, top-5 {s.top5:.1%} of {s.images} images{agreement}"
    for name, before, after, change in cost_rows(stated.get("mixed")):
        facts[f"mixed: {name}"] = f"{before} in 8 bits, {after} ({change})"
    return facts | {f"note {i}": text for i, text in enumerate(subject.notes, 1)}


def _quantization(subject: Subject) -> Any:
    assert subject.integer is not None
    return subject.integer.meta["quantization"]


def _tell(
    output: Output,
    subject: Subject,
    scores: dict[str, Score],
    found: tuple[Layer, ...],
    alone: list[Sensitivity],
) -> None:
    table = output.table(f"{subject.name}: least signal to noise", "tensor", "type", "SQNR, dB")
    for layer in sorted(found, key=lambda x: x.signal_to_noise_db)[:_SHOWN]:
        table.add_row(plain(layer.name), layer.dtype, f"{layer.signal_to_noise_db:.1f}")
    output.text(table)
    tell_mixed(output, mixed_facts(_quantization(subject)))
    if alone:
        table = output.table(
            "What loses most alone", "layer", "what", "output's SQNR, dB", "agreement", right=2
        )
        for s in alone[:_SHOWN]:
            table.add_row(plain(s.name), s.what, f"{s.signal_to_noise_db:.1f}", f"{s.agreement:.1%}")
        output.text(table)
    if scores:
        tell_scores(output, f"{subject.name}, {scores['int8'].images} images", scores)
        tell_worst(output, scores["int8"])
