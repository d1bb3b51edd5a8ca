"""``mnv3c inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.cli.model_options import model_options, parse_shape
from mnv3c.cli.output import Output, json_option, millions, plain, shape, size
from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    from mnv3c.ir.graph import Graph, Node
    from mnv3c.runners.library import Library

_BAR = 48  # characters that stand for the whole arena


@click.command()
@click.argument("subject", metavar="MODEL|DIR")
@click.option("--path", help="Of a library that carries several: which to show. Default: the best.")
@model_options
@json_option
def command(subject: str, path: str | None, as_json: bool, **options: Any) -> None:
    """Layers, shapes, multiply-accumulates and parameters of a model; memory map of a library."""
    output = Output(as_json)
    if Path(subject).is_dir():
        _library(output, Path(subject), path)
        return
    from mnv3c import api

    if api.comes_quantized(subject):
        options["shape"] = options.pop("input_shape")
        del options["seed"]  # has a default, and nothing here is random
        _model(output, api.load_quantized(subject, **options))
        return
    options["input_shape"] = parse_shape(options["input_shape"])
    _model(output, api.load(subject, **options))


def _model(output: Output, graph: Graph) -> None:
    from mnv3c.ir.count import macs, parameters, total_macs, total_parameters

    layers = [
        {
            "name": n.name,
            "operator": _operator(n),
            "shape": list(graph.tensor(n.output).shape),
            "macs": macs(graph, n),
            "parameters": parameters(n),
        }
        for n in graph.nodes
    ]
    facts = {
        "ok": True,
        "kind": "model",
        "name": graph.name,
        "inputs": {i: list(graph.tensor(i).shape) for i in graph.inputs},
        "outputs": {o: list(graph.tensor(o).shape) for o in graph.outputs},
        "macs": total_macs(graph),
        "parameters": total_parameters(graph),
        "layers": layers,
        "meta": dict(graph.meta),
    }
    output.result(facts)
    table = output.table(graph.name, "layer", "operator", "output", "MACs", "parameters", right=2)
    for entry in layers:
        columns = (str(entry["macs"] or ""), str(entry["parameters"] or ""))
        table.add_row(plain(entry["name"]), plain(entry["operator"]), shape(entry["shape"]), *columns)
    output.text(table)
    output.text(
        f"{len(layers)} layers, {millions(total_macs(graph))} multiply-accumulates,"
        f" {millions(total_parameters(graph))} parameters"
    )
    if graph.meta.get("random_weights"):
        output.note("random weights: no --weights were given")


def _operator(node: Node) -> str:
    from mnv3c.ir import float_ops as f
    from mnv3c.ir import int_ops as q

    if isinstance(node, f.Conv2d | q.QConv):
        out, kh, kw, per_group = node.weight.shape
        depthwise = node.groups > 1 and per_group == 1 and out == node.groups
        stride = "" if node.stride == (1, 1) else f" /{node.stride[0]}"
        return f"{'depthwise' if depthwise else 'conv'} {kh}x{kw}{stride}"
    if isinstance(node, f.Activation):
        return node.kind
    return type(node).__name__


def _library(output: Output, folder: Path, path: str | None) -> None:
    from mnv3c.runners.library import open_library

    library = open_library(folder)
    try:
        _show(output, library, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Mnv3cError(f"damaged manifest: {type(error).__name__} {error}", str(folder)) from None


def _show(output: Output, library: Library, path: str | None) -> None:
    """Draw everything before anything is printed: a damaged manifest leaves no half of a table."""
    path = path or library.paths[0]
    program: Mapping[str, Any] | None = library.manifest.get("programs", {}).get(path)
    if program is None:
        raise Mnv3cError(f"{path!r} is not in the library (it has {', '.join(library.paths)})", "--path")
    table = output.table(
        f"{library.name}, path {path}", "layer", "what", "output", "MACs", "constants", "parts", right=2
    )
    for layer in program["layers"]:
        shapes = ", ".join(shape(s) for s in layer["shapes"].values())
        constants = size(layer["constant_bytes"]) if layer["constant_bytes"] else ""
        row = (
            str(layer["index"]),
            plain(layer["title"]),
            shapes,
            str(layer["macs"] or ""),
            constants,
            str(layer["parts"]),
        )
        table.add_row(*row)
    memory_map = _memory_map(output, program)
    summary = (
        f"arena {size(program['arena_bytes'])}"
        f" (no plan can take less than {size(program['arena_lower_bound'])}),"
        f" constants {size(library.manifest['constant_bytes'])},"
        f" {millions(library.manifest['macs'])} multiply-accumulates, paths {', '.join(library.paths)}"
    )
    notes = [str(note) for note in library.manifest.get("notes", ())]
    output.result({"ok": True, "kind": "library", "path": path, **library.manifest})
    for part in (table, memory_map, summary):
        output.text(part)
    for note in notes:
        output.note(note)


def _memory_map(output: Output, program: Mapping[str, Any]) -> Any:
    table = output.table("Arena", "region", "offset", "bytes", "layers", "", right=1)
    table.columns[-1].justify = "left"
    arena = max(program["arena_bytes"], 1)
    for p in sorted(program["memory"], key=lambda p: (p["first"], p["offset"])):
        begin = p["offset"] * _BAR // arena
        length = max(1, -(-p["bytes"] * _BAR // arena))
        bar = " " * begin + "█" * min(length, _BAR - begin)
        table.add_row(plain(p["region"]), str(p["offset"]), str(p["bytes"]), f"{p['first']}-{p['last']}", bar)
    return table
