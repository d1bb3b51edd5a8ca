"""``mnv3c zoo``."""

from __future__ import annotations

import click

from mnv3c.cli.output import Output, json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the networks that compile by name."""
    from mnv3c.frontend.zoo.table import ARCHITECTURES

    output = Output(as_json)
    facts = [
        {
            "name": name,
            "blocks": len(a.blocks),
            "squeeze_and_excite": sum(b.se for b in a.blocks),
            "kernels": sorted({b.kernel for b in a.blocks}),
            "last": a.last,
            "head": a.head,
            "input": list(a.size),
            "classes": a.classes,
        }
        for name, a in ARCHITECTURES.items()
    ]
    output.result({"ok": True, "networks": facts})
    table = output.table("Zoo", "name", "blocks", "with SE", "kernels", "last", "head", "input", "classes")
    for entry, a in zip(facts, ARCHITECTURES.values(), strict=True):
        kernels = ", ".join(f"{k}x{k}" for k in sorted({b.kernel for b in a.blocks}))
        with_se = str(sum(b.se for b in a.blocks))
        size = "x".join(str(n) for n in a.size)
        numbers = (str(n) for n in (a.last, a.head))
        table.add_row(
            str(entry["name"]), str(len(a.blocks)), with_se, kernels, *numbers, size, str(a.classes)
        )
    output.text(table)
    output.text(
        "Width, input size and classes: in the name (mobilenet_v3_small_0.75_128), or by --width,"
        " --resolution and --classes. Weights: --weights."
    )
