"""``mnv3c latency``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mnv3c.cli.model_options import compiler_option, device_options, model_options, parse_shape
from mnv3c.cli.output import Output, json_option, plain
from mnv3c.errors import Mnv3cError


@click.command()
@click.argument("model")
@device_options
@click.option("--grid", is_flag=True, help="Other blocks in the places of MODEL's: kernels, expansions, SE.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the table there, one line an entry.")
@click.option(
    "--records", multiple=True, metavar="FILE", help="Schedules, before those that come with mnv3c."
)
@click.option("--untuned", is_flag=True, help="Use the default schedules alone.")
@click.option("--path", help="Of the kernels: i8mm, dotprod or neon. Default: the core's best.")
@compiler_option
@model_options
@json_option
def command(
    model: str,
    target: str,
    device: str,
    grid: bool,
    csv_file: str | None,
    records: tuple[str, ...],
    untuned: bool,
    path: str | None,
    cc: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What each layer of MODEL costs on a core, with its best known schedule.

    Hardware-aware architecture search looks latencies up in such a table. With --grid it has, for every place
    where MODEL has an inverted residual, blocks of kernel 3 and 5 and expansion 3, 4 and 6, with and without
    SE: a network's latency is the sum over its blocks.

    \b
        mnv3c latency mobilenet_v3_small --target cortex-a76 --csv layers.csv
        mnv3c latency mobilenet_v3_small --target cortex-a76 --grid --csv blocks.csv
    """
    output = Output(as_json)
    from mnv3c.tuning import front, latency

    options["input_shape"] = parse_shape(options["input_shape"])
    with output.progress() as progress:
        found = front.latency(
            model,
            target,
            device=device,
            grid=grid,
            files=[Path(f) for f in records],
            untuned=untuned,
            path=path,
            cc=cc,
            tell=progress,
            **options,
        )
    if csv_file is not None:
        text = (
            latency.grid_csv(found.blocks, found.unit)
            if grid
            else latency.network_csv(found.layers, found.unit)
        )
        try:
            Path(csv_file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Mnv3cError(f"cannot write: {error.strerror}", csv_file) from None
    facts: dict[str, Any] = {"ok": True, "core": found.core, "device": found.device, "unit": found.unit}
    if grid:
        output.result({**facts, "blocks": latency.grid_rows(found.blocks, found.unit)})
        table = output.table(
            f"blocks on {found.device}", "input", "expanded", "out", "kernel", "stride", "SE", found.unit
        )
        for b in found.blocks:
            size = "x".join(str(n) for n in b.place.input)
            cells = (size, b.channels, b.place.out, b.kernel, b.place.stride, "yes" if b.squeeze else "")
            table.add_row(*map(str, cells), _cost(b.cost, found.unit))
        output.text(table)
    else:
        output.result({**facts, "layers": [asdict(e) for e in found.layers]})
        table = output.table(
            f"{plain(found.name)} on {found.device}",
            "layer",
            "operator",
            "",
            found.unit,
            "at least",
            "schedule",
            right=3,
        )
        for e in found.layers:
            table.add_row(
                plain(e.layer),
                e.operator,
                e.shape,
                _cost(e.cost, found.unit),
                _cost(e.least.cycles, found.unit) if e.least is not None else "",
                "tuned" if e.tuned else "default",
            )
        output.text(table)
        total = sum(e.cost for e in found.layers if e.cost is not None)
        output.text(f"[bold]{_cost(total, found.unit)}[/] {found.unit} in {len(found.layers)} layers")
        least = [e.least for e in found.layers if e.least is not None]
        if len(least) == len(found.layers):
            arithmetic, lines = sum(b.arithmetic for b in least), sum(b.lines for b in least)
            output.text(
                f"no schedule goes below {arithmetic + lines:,.0f}: arithmetic {arithmetic:,.0f}, "
                f"waiting for weights {lines:,.0f}"
            )
    unknown = sum(x.cost is None for x in (found.blocks if grid else found.layers))
    if unknown:
        output.note(f"{unknown} could not be measured")
    if csv_file is not None:
        output.text(f"wrote {plain(csv_file)}")


def _cost(cost: float | None, unit: str) -> str:
    if cost is None:
        return "?"
    return f"{cost:,.0f}" if unit == "cycles" else f"{cost:.3e}"
