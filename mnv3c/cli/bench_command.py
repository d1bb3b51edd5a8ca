"""``mnv3c bench``."""

from __future__ import annotations

from pathlib import Path

import click

from mnv3c.cli.model_options import compiler_option
from mnv3c.cli.output import Output, json_option


@click.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--cpu", metavar="CORE", help="Core to estimate for. Default: the library's, or the path's least."
)
@click.option("--path", metavar="PATH", help="One of the library's paths. Default: the core's best.")
@compiler_option
@click.option("--no-caches", is_flag=True, help="Do not simulate the caches, which takes half of the time.")
@click.option("--html", "page", metavar="FILE", help="Write the report as one self-contained page.")
@json_option
def command(
    directory: str,
    cpu: str | None,
    path: str | None,
    cc: str | None,
    no_caches: bool,
    page: str | None,
    as_json: bool,
) -> None:
    """Count what the library in DIR executes, by layer, and estimate its cycles on a core.

    Nothing is timed: an emulator counts instructions and LLVM's models of the cores price them, so the
    figures are the same on every machine.
    """
    output = Output(as_json)
    from mnv3c.bench import html, table
    from mnv3c.bench.report import bench
    from mnv3c.runners.library import open_library

    with output.progress() as progress:
        library = open_library(directory)
        report = bench(library, path=path, cpu=cpu, cc=cc, caches=not no_caches, progress=progress)
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
