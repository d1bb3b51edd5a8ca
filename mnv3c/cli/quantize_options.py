"""``--mixed`` and ``--clipping``: the options, and what the first chose and costs for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from mnv3c.cli.output import Output, millions, plain, size

_DEFAULT = 4
_MOST = 64


def clipping_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--clipping``."""
    option = click.option(
        "--clipping",
        type=click.Choice(["mse", "kl", "minmax"]),
        help="How ranges of activations are cut: to least error, to least change of the distribution, or "
        "not. Default: mse; minmax for a network that was trained quantised by tensor.",
    )
    return option(command)


def mixed_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--mixed [N]``."""
    option = click.option(
        "--mixed",
        is_flag=False,
        flag_value=_DEFAULT,
        type=click.IntRange(1, _MOST),
        metavar="[N]",
        help=f"Store up to N tensors ({_DEFAULT}) in 16 bits where that pays, and show what it costs.",
    )
    return option(command)


def mixed_facts(quantization: object) -> Mapping[str, Any] | None:
    """What ``quantization`` of a graph's or manifest's facts says about it; ``None`` without ``--mixed``."""
    return quantization.get("mixed") if isinstance(quantization, Mapping) else None


def tell_mixed(output: Output, mixed: Mapping[str, Any] | None) -> None:
    """Tables of the tensors and of the cost."""
    if mixed is None:
        return
    if mixed["tried"]:
        title = "In 16 bits" if mixed["tensors"] else "Tried in 16 bits, not kept"
        table = output.table(title, "tensor", "share of rounding noise", "of the work around it")
        for c in mixed["tried"]:
            table.add_row(plain(c["name"]), f"{c['noise']:.1%}", f"{c['macs']:.1%}")
        output.text(table)
    rows = cost_rows(mixed)
    if rows:
        table = output.table("What it gives and costs", "", "8 bits", "mixed", "")
        for row in rows:
            table.add_row(*row)
        output.text(table)
    if mixed["reason"]:
        output.text(f"--mixed raised nothing: {plain(mixed['reason'])}")


def cost_rows(mixed: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Name, before, after and difference of everything that changes."""
    rows: list[tuple[str, str, str, str]] = []
    if mixed is None:
        return rows
    before, after = mixed["before_db"], mixed["after_db"]
    if before is not None and after is not None:
        name = "outputs on images left out, dB"
        rows.append((name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"))
    cost = mixed.get("cost")
    if cost is None:
        return rows
    where = f"{cost['core']}, {cost['path']}"
    kinds = (
        ("instructions", f"instructions ({where})", millions),
        ("arena_bytes", "arena", size),
        ("library_bytes", f"code and constants ({where})", size),
    )
    for key, name, text in kinds:
        a, b = cost["before"][key], cost["after"][key]
        if a is not None and b is not None:
            rows.append((name, text(a), text(b), f"{(b - a) / a:+.1%}"))
    return rows
