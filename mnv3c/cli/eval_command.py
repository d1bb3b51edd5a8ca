"""``mnv3c eval``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.cli.model_options import (
    compiler_option,
    model_options,
    normalize_options,
    parse_normalization,
    parse_shape,
)
from mnv3c.cli.output import Output, json_option, plain
from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    from mnv3c.evaluate import Score

_WORKERS = 2


@click.command()
@click.argument("subject", metavar="MODEL|DIR")
@click.option("--images", metavar="DIR", required=True, help="Folder of images.")
@click.option(
    "--labels", metavar="CSV", required=True, help="Their classes: the columns file and label_0based."
)
@click.option(
    "--engine",
    type=click.Choice(["float", "int8", "emulated"]),
    help="What runs: the float network; the library's bits, built for this machine; the library on emulated "
    "Arm. Default: int8 where there are integers or --calibration, else float.",
)
@click.option("--calibration", metavar="DIR|NPY", help="To quantise a float model by, as compile does.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first so many images.")
@click.option("--path", help="emulated: one of the library's paths. Default: its best.")
@click.option(
    "--runner",
    type=click.Choice(["auto", "native", "unicorn", "qemu"]),
    default="auto",
    show_default=True,
    help="emulated: what emulates.",
)
@click.option("--cpu", "core", metavar="CORE", help="emulated: the CPU.")
@compiler_option
@normalize_options
@model_options
@json_option
def command(
    subject: str,
    images: str,
    labels: str,
    engine: str | None,
    calibration: str | None,
    limit: int | None,
    path: str | None,
    runner: str,
    core: str | None,
    cc: str | None,
    normalize: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score MODEL (a zoo name, a model file, an .mnv3q file) or the library in DIR on labelled images.

    Each image is resized whole to the network's input, bilinear.
    """
    output = Output(as_json)
    options["input_shape"] = parse_shape(options["input_shape"])
    mapping = parse_normalization(normalize, mean, std)
    from mnv3c.evaluate import evaluate
    from mnv3c.evaluate.libraries import emulated_engine, host_engine
    from mnv3c.evaluate.subject import open_subject

    if engine == "emulated" and not Path(subject).is_dir():
        raise Mnv3cError("runs a compiled library; give its folder", "--engine emulated")
    if engine != "emulated" and (path or core or runner != "auto"):
        raise Mnv3cError("--path, --runner and --cpu are for --engine emulated", "--engine")
    with output.progress() as progress, contextlib.ExitStack() as stack:
        wanted = engine == "int8" or (engine is None and calibration is not None)
        network = open_subject(
            subject, calibration=calibration, quantize=wanted, normalize=mapping, progress=progress, **options
        )
        engine = engine or ("float" if network.integer is None else "int8")
        engines, where = {}, "NumPy"
        if network.network is not None or engine == "float":
            engines["float"] = network.float_engine()
        if engine == "int8":
            progress("build", 0, 1)
            engines["int8"], where = stack.enter_context(host_engine(network, _WORKERS, cc))
            progress("build", 1, 1)
        elif engine == "emulated":
            engines["emulated"], where = stack.enter_context(emulated_engine(network, path, runner, core, cc))
        began = time.monotonic()
        scores = evaluate(
            engines,
            Path(images),
            Path(labels),
            network.shape,
            reference="float" if "float" in engines else None,
            limit=limit,
            workers=_WORKERS,
            progress=progress,
        )
        seconds = time.monotonic() - began
    for note in network.notes:
        output.note(note)
    output.result(
        {
            "ok": True,
            "name": network.name,
            "engine": engine,
            "where": where,
            **facts(scores[engine]),
            "float": facts(scores["float"]) if "float" in scores and engine != "float" else None,
            "notes": list(network.notes),
            "seconds": round(seconds, 3),
        }
    )
    tell(output, f"{network.name}, {scores[engine].images} images", scores)
    tell_worst(output, scores[engine])
    output.text(f"  {engine}: {plain(where)}; {seconds:.1f} s")


def facts(score: Score) -> dict[str, Any]:
    """A score as JSON has it; classes are numbered as the labels are, and -1 is a background class."""
    return {
        "images": score.images,
        "top1": score.top1,
        "top5": score.top5,
        "agreement": score.agreement,
        "signal_to_noise_db": score.signal_to_noise_db,
        "worst": [
            dict(zip(("class", "taken_for", "wrong", "images"), row, strict=True)) for row in score.worst
        ],
    }


def tell(output: Output, title: str, scores: dict[str, Score]) -> None:
    """One line an engine."""
    table = output.table(title, "engine", "top-1", "top-5", "agrees with float", "SQNR, dB")
    for name, s in scores.items():
        agreement = "" if s.agreement is None else f"{s.agreement:.1%}"
        noise = "" if s.signal_to_noise_db is None else f"{s.signal_to_noise_db:.1f}"
        table.add_row(name, f"{s.top1:.1%}", f"{s.top5:.1%}", agreement, noise)
    output.text(table)


def tell_worst(output: Output, score: Score) -> None:
    """The classes with most wrong answers, and what they are taken for."""
    if not score.worst:
        return
    table = output.table("Most often wrong", "class", "wrong", "most often taken for")
    for label, taken_for, wrong, images in score.worst:
        other = "background" if taken_for < 0 else str(taken_for)
        table.add_row(str(label), f"{wrong} of {images}", other)
    output.text(table)
