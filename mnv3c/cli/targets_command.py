"""``mnv3c targets``."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from mnv3c.cli.output import Output, json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List what --target takes."""
    from mnv3c import targets

    output = Output(as_json)
    output.result({"ok": True, "targets": [_facts(t) for t in targets.every()]})
    table = output.table(
        "Targets",
        "name",
        "architecture",
        "paths",
        "pipeline",
        "issue",
        "L1 / L2 KiB",
        "description",
        right=99,
    )
    for t in targets.every():
        core = t.core
        pipeline = core.pipeline if core else "picks at run time" if t.run_time_choice else ""
        issue = str(core.issue_width) if core else ""
        caches = f"{core.cache.l1d_kib} / {core.cache.l2_kib}" if core else ""
        table.add_row(t.name, t.architecture, ", ".join(t.paths), pipeline, issue, caches, t.description)
    output.text(table)


def _facts(target: Any) -> dict[str, Any]:
    facts = {f.name: getattr(target, f.name) for f in dataclasses.fields(target)}
    facts["core"] = dataclasses.asdict(target.core) if target.core else None
    return {k: dict(v) if hasattr(v, "items") else v for k, v in facts.items()}
