"""``mnv3c verify``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mnv3c.cli.model_options import compiler_option
from mnv3c.cli.output import Output, json_option, plain, size

if TYPE_CHECKING:
    from mnv3c.verification import FloatError, Report


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--path", "paths", multiple=True, help="Only this path; may be repeated.")
@click.option(
    "--runner",
    type=click.Choice(["auto", "native", "host", "unicorn", "qemu"]),
    default="auto",
    show_default=True,
    help="What runs it; host is the ref path on any machine.",
)
@click.option("--cpu", "core", metavar="CORE", help="CPU to emulate, a core that `mnv3c targets` lists.")
@compiler_option
@click.option("--count", type=click.IntRange(0), default=4, show_default=True, help="Random inputs to run.")
@click.option("--images", metavar="DIR", help="Images to run as well.")
@click.option("--limit", type=click.IntRange(1), help="Of the images, take so many.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs.")
@json_option
def command(directory: str, as_json: bool, **options: Any) -> None:
    """Build the library in DIR, run it on (emulated) Arm, and compare every bit with the reference."""
    output = Output(as_json)
    from mnv3c.verification import verify

    options["paths"] = options["paths"] or None
    with output.progress() as progress:
        report = verify(directory, progress=progress, **options)
    output.result(report.as_dict())
    _tell(output, report)
    if not report.ok:
        sys.exit(1)


def _tell(output: Output, report: Report) -> None:
    table = output.table(report.name, "path", "result", "on", "runs", "stack", "seconds", right=3)
    for p in report.paths:
        if p.skipped:
            table.add_row(p.path, "[yellow]not run[/]", p.skipped, "", "", "")
            continue
        verdict = "[green]bit-equal[/]" if p.equal else "[bold red]FAILED[/]"
        stack = "" if p.stack_bytes is None else size(p.stack_bytes)
        runs = f"{p.runs} + {p.frames} frames" if p.frames else str(p.runs)
        table.add_row(p.path, verdict, plain(f"{p.where}, {p.compiler}"), runs, stack, f"{p.seconds:.1f}")
    output.text(table)
    for p in report.paths:
        if p.problem:
            output.text(f"[bold red]{p.path}:[/] {plain(p.problem)}")
    for name in report.changed_files:
        output.text(f"[bold red]files:[/] {plain(name)}")
    for e in report.errors:
        output.text(
            f"against the float network, {_inputs(e)}, output {plain(e.output)}:"
            f" cosine {e.cosine:.5f}, SQNR {e.sqnr_db:.1f} dB, top-1 agreement {e.top1_agreement:.1%}"
        )
    output.text("[bold green]ok[/]" if report.ok else "[bold red]failed[/]")


def _inputs(e: FloatError) -> str:
    return f"{e.inputs} images" if e.source == "images" else f"{e.inputs} random inputs"
