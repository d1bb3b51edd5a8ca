"""``mnv3c bench``: what a generated library costs on a core."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from mnv3c.bench import html, table
from mnv3c.bench.report import bench as run_bench
from mnv3c.runners.library import open_library


@click.command("bench")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--cpu", metavar="CORE", help="Core to estimate for; by default the library's own, or the least one."
)
@click.option(
    "--path", metavar="PATH", help="Path to count, one of the library's; by default the core's best."
)
@click.option("--cc", metavar="COMMAND", help="C compiler for 64-bit Arm.")
@click.option("--no-caches", is_flag=True, help="Do not simulate caches: half the time.")
@click.option("--brief", is_flag=True, help="Leave out the table of layers.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write a page."
)
def bench(
    directory: Path,
    cpu: str | None,
    path: str | None,
    cc: str | None,
    no_caches: bool,
    brief: bool,
    as_json: bool,
    page: Path | None,
) -> None:
    """Count what the library in DIR executes, by layer, and estimate its cycles on a core.

    Nothing is timed: an emulator counts instructions and LLVM's models of the cores price them, so the
    figures are the same on every machine.
    """
    library = open_library(directory)
    error_console = Console(stderr=True)
    with error_console.status("", spinner="dots") as status:
        report = run_bench(library, path=path, cpu=cpu, cc=cc, caches=not no_caches, progress=status.update)
    if page is not None:
        html.write(page, report)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
        return
    table.show(report, Console(), layers=not brief)
    if page is not None:
        click.echo(f"wrote {page}")
