"""``mnv3c tune``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.cli.model_options import compiler_option, device_options, model_options, parse_shape
from mnv3c.cli.output import Output, json_option, plain
from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    from mnv3c.tuning.session import Outcome, Progress


@click.command()
@click.argument("model")
@device_options
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    help="Records to write; those already in it are kept where nothing new is known. Default: CORE.json.",
)
@click.option("--path", help="Tune this path: i8mm, dotprod or neon. Default: the core's best.")
@compiler_option
@click.option(
    "--trials", type=click.IntRange(1), default=80, show_default=True, help="Schedules to try of a layer."
)
@click.option("--time-budget", type=float, metavar="MINUTES", help="Begin nothing new after so long.")
@click.option(
    "--finalists",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="On a real device: schedules of a layer that it times, the best on the simulated core.",
)
@click.option(
    "--hints",
    multiple=True,
    metavar="FILE",
    help="Records, of another core say, to try the schedules of first.",
)
@click.option(
    "--fresh", is_flag=True, help="Forget what an earlier run measured instead of going on from it."
)
@click.option(
    "--space",
    "show_space",
    is_flag=True,
    help="Measure nothing: list what can be chosen for each layer, and what is used without a search.",
)
@model_options
@json_option
def command(
    model: str,
    target: str,
    device: str,
    file: str | None,
    path: str | None,
    cc: str | None,
    trials: int,
    time_budget: float | None,
    finalists: int,
    fresh: bool,
    hints: tuple[str, ...],
    show_space: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the fastest schedules of MODEL on a core.

    Every layer of MODEL (a name that `mnv3c zoo` lists or a model file) is compiled in many ways and each is
    measured: on a simulated core, where nothing is named, or on a device. Results never change, only speed:
    each candidate is checked against the reference before its cost counts.

    What is found goes to a file of records. Compile with it:

    \b
        mnv3c tune mobilenet_v3_large --target cortex-a55 -o mine.json
        mnv3c compile mobilenet_v3_large --target cortex-a55 --records mine.json -o lib

    Ctrl-C keeps everything found. The same command goes on where it was, from FILE.journal. The same seed and
    trials give the same records on the simulated core. docs/tuning.md has the way to a phone or a board.
    """
    output = Output(as_json)
    if time_budget is not None and time_budget <= 0:
        raise Mnv3cError("is not positive", "--time-budget")
    from mnv3c.tuning import front
    from mnv3c.tuning.session import Settings

    if show_space:
        options["input_shape"] = parse_shape(options["input_shape"])
        _show_space(output, model, target, path, options)
        return
    settings = Settings(trials, None if time_budget is None else time_budget * 60, options["seed"])
    began = time.monotonic()
    with _bar(output) as tell:
        options["input_shape"] = parse_shape(options["input_shape"])
        done = front.tune(
            model,
            target,
            device=device,
            file=Path(file) if file else None,
            path=path,
            cc=cc,
            settings=settings,
            finalists=finalists,
            fresh=fresh,
            hints=[Path(h) for h in hints],
            tell=tell,
            **options,
        )
    output.result(front.facts(done, time.monotonic() - began))
    _tell(output, done, time.monotonic() - began)


def _show_space(output: Output, model: str, target: str, path: str | None, options: dict[str, Any]) -> None:
    from mnv3c.tuning import front, report

    rows = front.knobs(model, target, path=path, **options)
    output.result(
        {
            "ok": True,
            "knobs": [
                {
                    "operator": r.op.operator,
                    "shape": dict(r.op.shape),
                    "knob": r.knob,
                    "default": r.default,
                    "candidates": list(r.candidates),
                    "legal": list(r.legal),
                }
                for r in rows
            ],
        }
    )
    table = output.table(
        f"{plain(model)} on {target}", "operator", "", "knob", "default", "tried", "legal", right=6
    )
    before = None
    for r in rows:
        head = (r.op.operator, report.shape_text(r.op)) if r.op != before else ("", "")
        values = report.values_text(r.candidates), report.values_text(r.legal)
        table.add_row(*head, r.knob, str(r.default), *values)
        before = r.op
    output.text(table)


@contextlib.contextmanager
def _bar(output: Output) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with the best so far, on a terminal; a line now and then elsewhere."""
    if output.json:
        yield lambda progress: None
        return
    if not sys.stderr.isatty():
        last = [0.0]

        def line(p: Progress) -> None:
            if time.monotonic() - last[0] > 20:
                last[0] = time.monotonic()
                click.echo(f"{p.step}: {p.measured} of {p.planned}{_gain(p)}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("read the model", total=None)

        def tell(p: Progress) -> None:
            bars.update(task, description=f"{p.step}{_gain(p)}", completed=p.measured, total=p.planned)

        yield tell


def _gain(p: Progress) -> str:
    return f", best so far {p.best / p.default:.1%} of the default" if p.default else ""


def _cost(cost: float | None, unit: str) -> str:
    if cost is None:
        return "?"
    return f"{cost / 1e3:,.1f} k" if unit == "cycles" else f"{cost * 1e6:,.1f} us"


def _tell(output: Output, done: Any, seconds: float) -> None:
    from mnv3c.tuning import report

    outcome: Outcome = done.outcome
    unit = done.unit
    table = output.table(
        f"{done.name} on {done.device}",
        "layer",
        "operator",
        "times",
        "default",
        "tuned",
        "gain",
        "schedule",
        right=2,
    )
    for row in report.rows(outcome):
        gain = 1 - row.best / row.default if row.best and row.default else 0.0
        table.add_row(
            plain(row.nodes[-1]),
            f"{row.op.operator} {report.shape_text(row.op)}",
            str(row.count),
            _cost(row.default, unit),
            _cost(row.best, unit),
            f"{gain:.1%}" if gain else "",
            report.schedule_text(row.schedule) + ("" if row.own else " (other fusion or block shape)"),
        )
    table.columns[-1].justify = "left"
    output.text(table)
    if outcome.default_cost:
        output.text(
            f"[bold]{_cost(outcome.default_cost, unit)} by default, {_cost(outcome.best_cost, unit)} tuned: "
            f"{1 - outcome.best_cost / outcome.default_cost:.1%} less[/]"
        )
    output.text(
        f"{outcome.measured} candidates measured, {outcome.known} known before, "
        f"{len(outcome.failed)} failed, {seconds:.0f} s; compiler {done.compiler}"
    )
    for op, schedule, reason in outcome.failed[:10]:
        output.note(f"failed: {op}: {report.schedule_text(schedule)}: {reason}")
    for note in outcome.notes:
        output.note(note)
    if not outcome.complete:
        output.note("not everything was tried; the same command goes on from here")
    output.text(
        f"wrote {plain(done.file)}; use it with: mnv3c compile ... --records {plain(done.file)}{done.hint}"
    )
