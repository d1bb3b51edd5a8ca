"""What goes to the terminal: tables and colour for people, one JSON object for machines."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[str, int, int], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


class Output:
    """Prints results to stdout and progress to stderr; with ``json``, only the object."""

    def __init__(self, json: bool = False) -> None:
        self.json = json

    def result(self, facts: Mapping[str, Any]) -> None:
        """The one object of ``--json``; nothing otherwise."""
        if self.json:
            print(json.dumps(_plain(facts), indent=1, allow_nan=False))

    def text(self, line: Any = "") -> None:
        """A line, or anything that rich can draw; nothing with ``--json``."""
        if not self.json:
            self._console().print(line, highlight=False, soft_wrap=isinstance(line, str))

    def table(self, title: str, *columns: str, right: int = 1) -> Table:
        """An empty table; columns from number ``right`` on are aligned to the right."""
        from rich import box
        from rich.table import Table

        table = Table(title=plain(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i >= right else "left", overflow="fold")
        return table

    def note(self, line: str) -> None:
        """Something that the user must not miss, on stderr."""
        if not self.json:
            self._console(error=True).print(
                f"[bold yellow]note:[/] {plain(line)}", highlight=False, soft_wrap=True
            )

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback for long steps: bars on a terminal, silence elsewhere."""
        if self.json or not sys.stderr.isatty():
            yield lambda step, done, total: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console(error=True), transient=True) as bars:
            tasks: dict[str, Any] = {}

            def tell(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = bars.add_task(step, total=total)
                bars.update(tasks[step], completed=done, total=total)

            yield tell

    def _console(self, error: bool = False) -> Any:
        from rich.console import Console

        # A pipe gets whole lines: what reads them should not depend on a terminal's width.
        stream = sys.stderr if error else sys.stdout
        return Console(file=stream, width=None if stream.isatty() else 160)


def fail(output: Output, message: str, place: str, code: int) -> int:
    """Report an error in one line, or as the object of ``--json``; returns ``code``."""
    message = " ".join(message.split())
    if output.json:
        print(json.dumps({"ok": False, "error": {"place": place, "message": message}}, indent=1))
        return code
    mark = click.style("error:", fg="red", bold=True)
    click.echo(f"mnv3c: {mark} {f'{place}: ' if place else ''}{message}", err=True)
    return code


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def plain(text: object) -> str:
    """Text of the user's or a model's: square brackets in it are not markup."""
    from rich.markup import escape

    return escape(str(text))


def size(bytes_: int) -> str:
    """Bytes for people."""
    if bytes_ < 10 * 1024:
        return f"{bytes_} B"
    return f"{bytes_ / 1024:.1f} KiB" if bytes_ < 10 * 1024**2 else f"{bytes_ / 1024**2:.1f} MiB"


def millions(count: int) -> str:
    """Multiply-accumulates or parameters for people."""
    return f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)


def shape(dimensions: Any) -> str:
    return "x".join(str(n) for n in dimensions)
