"""``mnv3c run``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.camera import FITS
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
    import numpy as np

    from mnv3c.evaluate.subject import Subject
    from mnv3c.ir.graph import Graph

    Look = Callable[[Path], tuple[np.ndarray, list[np.ndarray]]]

_BEST = 5


@click.command()
@click.argument("subject", metavar="MODEL|DIR")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--names", metavar="FILE", help="Names of the classes, one a line.")
@click.option("-o", "--out", metavar="DIR", default=".", help="Where pictures go. Default: here.")
@click.option("--calibration", metavar="DIR|NPY", help="To quantise a float model by, as compile does.")
@click.option("--emulate", is_flag=True, help="A library in DIR: run its best path on emulated Arm.")
@click.option("--path", help="With --emulate: one of the library's paths.")
@click.option(
    "--fit",
    type=click.Choice(list(FITS)),
    help="A library with --camera: give it each image as a frame of that format, brought to the network's "
    "size by its own code.",
)
@compiler_option
@normalize_options
@model_options
@json_option
def command(
    subject: str,
    images: tuple[str, ...],
    names: str | None,
    out: str,
    calibration: str | None,
    emulate: bool,
    path: str | None,
    fit: str | None,
    cc: str | None,
    normalize: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what the integer network makes of images.

    MODEL is a zoo name, a model file or an .mnv3q file, DIR a compiled library. A classifier prints its five
    best classes; of a segmentation the mask is painted beside the image, of a detector the boxes are drawn,
    as PNG. What runs is the library's C, built for this machine or on emulated Arm, never the float network.
    Each image is resized whole to the network's input, bilinear, unless --fit has the library's camera do it.
    """
    output = Output(as_json)
    options["input_shape"] = parse_shape(options["input_shape"])
    mapping = parse_normalization(normalize, mean, std)
    from mnv3c.evaluate.subject import open_subject
    from mnv3c.ir.detection import OUTPUTS

    if path is not None and not emulate:
        raise Mnv3cError("is for --emulate", "--path")
    for file in images:  # before a float model is quantised
        if not Path(file).is_file():
            raise Mnv3cError("no such image", file)
    with output.progress() as progress, contextlib.ExitStack() as stack:
        network = open_subject(
            subject, calibration=calibration, quantize=True, normalize=mapping, progress=progress, **options
        )
        look, where = stack.enter_context(_open(network, fit, emulate=emulate, path=path, cc=cc))
        for note in network.notes:
            output.note(note)
        assert network.integer is not None
        graph = network.integer
        known = _names(names, _classes(graph))
        shape = graph.tensor(graph.outputs[0]).shape
        answers: list[dict[str, object]] = []
        for file in images:
            picture, results = look(Path(file))
            if graph.outputs == OUTPUTS:
                answers.append(_boxes(output, file, picture, results, known, Path(out)))
            elif shape[:2] == (1, 1):
                scores = network.scores(results[0][None])[0]
                answers.append({"image": file, "best": _best(output, file, scores, known)})
            else:
                answers.append(_mask(output, file, picture, results[0], known, Path(out)))
    output.result({"ok": True, "name": network.name, "where": where, "answers": answers})
    output.text(f"{network.name}: {plain(where)}")


@contextlib.contextmanager
def _open(network: Subject, fit: str | None, **how: Any) -> Iterator[tuple[Look, str]]:
    """From an image's file to what the network is shown, and what it makes of it; and a name of what runs."""
    from mnv3c.camera import from_rgb
    from mnv3c.evaluate.outputs import open_camera, open_outputs
    from mnv3c.images import load_image, load_whole
    from mnv3c.reference import camera

    if fit is None:
        with open_outputs(network, **how) as (run, where):

            def look(file: Path) -> tuple[np.ndarray, list[np.ndarray]]:
                picture = load_image(file, network.shape, crop=False)
                return picture, run(picture)

            yield look, where
        return
    with open_camera(network, **how) as (run_frame, where):
        assert network.library is not None
        format_, (height, width, _) = network.library.manifest["camera"]["format"], network.shape

        def film(file: Path) -> tuple[np.ndarray, list[np.ndarray]]:
            frame = from_rgb(load_whole(file), format_, fit=fit)
            return camera.image(frame, height, width), run_frame(frame)

        yield film, f"{where}, {format_} frames"


def _classes(graph: Graph) -> int:
    count = graph.meta.get("classes")
    return count if isinstance(count, int) else graph.tensor(graph.outputs[0]).shape[2]


def _names(file: str | None, classes: int) -> list[str]:
    """Names by class number; a list that is one short lacks the background class 0."""
    if file is None:
        return [f"class {i}" for i in range(classes)]
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Mnv3cError(f"cannot be read: {error}", file) from None
    if len(lines) == classes - 1:
        lines = ["background", *lines]
    if len(lines) != classes:
        raise Mnv3cError(f"{len(lines)} names for {classes} classes", file)
    return lines


def _best(output: Output, file: str, scores: np.ndarray, names: list[str]) -> list[dict[str, object]]:
    """The classes with the highest logits, with their share of a softmax."""
    import numpy as np

    share = np.exp(scores.astype(np.float64) - scores.max())
    share /= share.sum()
    order = np.argsort(-scores, kind="stable")[:_BEST]
    table = output.table(plain(file), "class", "number", "softmax")
    for i in order:
        table.add_row(plain(names[i]), str(i), f"{share[i]:.1%}")
    output.text(table)
    return [{"class": int(i), "name": names[i], "softmax": float(share[i])} for i in order]


def _mask(
    output: Output, file: str, picture: np.ndarray, result: np.ndarray, names: list[str], folder: Path
) -> dict[str, object]:
    """Write the painted picture; the share of every class that was found."""
    import numpy as np

    from mnv3c.pictures import paint

    classes = result.argmax(axis=-1) if result.shape[2] > 1 else result[..., 0].astype(np.int64)
    target = _save(
        picture, lambda image: paint(image, classes, len(names)), folder, f"{Path(file).stem}_mask"
    )
    counts = np.bincount(classes.ravel(), minlength=len(names)) / classes.size
    table = output.table(plain(f"{file}: {target}"), "class", "number", "pixels")
    found = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] > 0]
    for i in found:
        table.add_row(plain(names[i]), str(i), f"{counts[i]:.1%}")
    output.text(table)
    shares = [{"class": i, "name": names[i], "share": float(counts[i])} for i in found]
    return {"image": file, "mask": str(target), "classes": shares}


def _boxes(
    output: Output,
    file: str,
    picture: np.ndarray,
    results: list[np.ndarray],
    names: list[str],
    folder: Path,
) -> dict[str, object]:
    """Write the picture with boxes; every box that was found."""
    from mnv3c.pictures import draw_boxes

    count = int(results[3].item())
    boxes, scores, kinds = (r[0, :count] for r in results[:3])
    titles = [f"{names[int(k)]} {s:.0%}" for k, s in zip(kinds[:, 0], scores[:, 0], strict=True)]
    target = _save(
        picture,
        lambda image: draw_boxes(image, boxes, titles, kinds[:, 0]),
        folder,
        f"{Path(file).stem}_boxes",
    )
    table = output.table(
        plain(f"{file}: {target}"), "class", "number", "score", "top", "left", "bottom", "right"
    )
    found = []
    for box, score, kind in zip(boxes, scores[:, 0], kinds[:, 0], strict=True):
        name = names[int(kind)]
        table.add_row(plain(name), str(kind), f"{score:.1%}", *(f"{v:.3f}" for v in box))
        facts = {"class": int(kind), "name": name, "score": float(score), "box": [float(v) for v in box]}
        found.append(facts)
    output.text(table)
    return {"image": file, "picture": str(target), "boxes": found}


def _save(picture: np.ndarray, answer: Callable[[np.ndarray], np.ndarray], folder: Path, name: str) -> Path:
    """Write the picture and what ``answer`` makes of it side by side."""
    import numpy as np

    from mnv3c.pictures import save_beside

    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mnv3cError(f"cannot be made: {error.strerror}", str(folder)) from None
    target = folder / f"{name}.png"
    save_beside(picture, answer(picture), target)
    return target
