"""``mnv3c doctor``."""

from __future__ import annotations

import sys

import click

from mnv3c.cli.output import Output, json_option, plain


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show what is installed; exit code 1 if something that is needed is missing."""
    from mnv3c import doctor

    output = Output(as_json)
    findings = doctor.examine()
    good = all(f.ok for f in findings if f.needed)
    output.result({"ok": good, "findings": [f.as_dict() for f in findings]})
    table = output.table("mnv3c doctor", "", "what", "found", "for", right=99)
    for f in findings:
        mark = "[green]yes[/]" if f.ok else "[bold red]NO[/]" if f.needed else "[yellow]no[/]"
        table.add_row(mark, f.what, plain(f.found), f.purpose)
    output.text(table)
    output.text("[bold green]ok[/]" if good else "[bold red]something that is needed is missing[/]")
    if not good:
        sys.exit(1)
