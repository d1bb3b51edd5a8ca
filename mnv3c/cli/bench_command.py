"""``mnv3c bench``."""

from __future__ import annotations

import re
from pathlib import Path

import click

from mnv3c.cli.model_options import compiler_option
from mnv3c.cli.output import Output, json_option
from mnv3c.errors import Mnv3cError


@click.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--cpu", metavar="CORE", help="Core to estimate for. Default: the library's, or the path's least."
)
@click.option("--path", metavar="PATH", help="One of the library's paths. Default: the core's best.")
@compiler_option
@click.option("--no-caches", is_flag=True, help="Do not simulate the caches, which takes half of the time.")
@click.option(
    "--frame",
    "frame_text",
    metavar="WxH[:DEGREES]",
    help="Of a library with --camera: run a frame of that size, turned so far.",
)
@click.option("--html", "page", metavar="FILE", help="Write the report as one self-contained page.")
@json_option
def command(
    directory: str,
    cpu: str | None,
    path: str | None,
    cc: str | None,
    no_caches: bool,
    frame_text: str | None,
    page: str | None,
    as_json: bool,
) -> None:
    """Count what the library in DIR executes, by layer, and estimate its cycles on a core.

    Nothing is timed: an emulator counts instructions and LLVM's models of the cores price them, so the
    figures are the same on every machine.
    """
    output = Output(as_json)
    from mnv3c.bench import html, table
    from mnv3c.bench.build import FrameShape
    from mnv3c.bench.report import bench
    from mnv3c.runners.library import open_library

    frame = None
    if frame_text is not None:
        found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})(?::(0|90|180|270))?", frame_text)
        if found is None:
            raise Mnv3cError(f"{frame_text!r} is not WxH or WxH:DEGREES, such as 1280x720:90", "--frame")
        frame = FrameShape(int(found[1]), int(found[2]), int(found[3] or 0))
    with output.progress() as progress:
        library = open_library(directory)
        report = bench(
            library, path=path, cpu=cpu, cc=cc, caches=not no_caches, frame=frame, progress=progress
        )
    if page is not None:
        html.write(Path(page), report)
    output.result(report.as_json())
    for line in table.heading(report):
        output.text(line)
    for drawn in (table.layers(report), table.classes(report), table.memory(report), table.threads(report)):
        output.text(drawn)
    for reason in report.missing:
        output.note(f"not shown: {reason}")
    if page is not None:
        output.text(f"wrote {page}")
