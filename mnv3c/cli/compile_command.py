"""``mnv3c compile``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3c.camera import FORMATS
from mnv3c.cli.model_options import model_options, normalize_options, parse_normalization, parse_shape
from mnv3c.cli.output import Output, json_option, millions, plain, shape, size
from mnv3c.cli.quantize_options import clipping_option, mixed_facts, mixed_option, tell_mixed
from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    from mnv3c.api import CompiledLibrary


@click.command()
@click.argument("model")
@click.option("--target", default="arm64", show_default=True, help="A name that `mnv3c targets` lists.")
@click.option(
    "-o", "--output", metavar="DIR", required=True, help="Folder to write; a library there is replaced."
)
@click.option("--name", help="Prefix of all symbols and files, a C identifier.")
@click.option("--calibration", metavar="DIR|NPY", help="Images, or an array of inputs, to choose scales by.")
@click.option("--path", help="Carry this path alone: ref, neon, dotprod or i8mm.")
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(["int8", "uint8", "float32"]),
    help="What the library takes: symmetric int8 (the default), camera bytes, or floats. A model that "
    "comes quantised keeps its own.",
)
@click.option(
    "--output-type",
    "output_dtype",
    type=click.Choice(["int16", "int8", "float32"]),
    help="What it returns; int16 is the default.",
)
@click.option(
    "--camera",
    type=click.Choice(list(FORMATS)),
    help="Also take frames of a camera, of any size, turned by 0, 90, 180 or 270 degrees: cut out, resized, "
    "normalised and quantised row by row (NAME_run_camera). The three colours go to the network in the order "
    "red, green, blue.",
)
@normalize_options
@mixed_option
@clipping_option
@click.option("--memory", type=click.Choice(["fast", "small"]), default="fast", show_default=True)
@click.option(
    "--records",
    multiple=True,
    metavar="FILE",
    help="Schedules that `mnv3c tune` found, before those that come with mnv3c. May be given again.",
)
@click.option(
    "--compiler",
    type=click.Choice(["clang", "gcc"]),
    default="clang",
    show_default=True,
    help="What will compile the library (zig's is a clang); schedules are tuned for each.",
)
@click.option("--untuned", is_flag=True, help="Use the default schedules alone.")
@click.option(
    "--ignore-bad-records",
    is_flag=True,
    help="Where records cannot be used, use the default schedules and say so.",
)
@click.option("--dump-ir", metavar="DIR", help="Write the graphs after each step there, as text.")
@click.option("--depfile", metavar="FILE", help="Write what the library depends on there, as a rule of Make.")
@click.option("--list-sources", is_flag=True, help="Compile nothing; print the names of the C files.")
@model_options
@json_option
def command(model: str, as_json: bool, depfile: str | None, list_sources: bool, **options: Any) -> None:
    """Compile MODEL, a name that `mnv3c zoo` lists or a model file, to a stand-alone C library."""
    output = Output(as_json)
    normalize = parse_normalization(options.pop("normalize"), options.pop("mean"), options.pop("std"))
    input_shape = parse_shape(options.pop("input_shape"))
    if not options["output"]:
        raise Mnv3cError("is empty", "--output")
    if list_sources:
        _list_sources(output, options)
        return
    if depfile:
        from mnv3c.cli import dependencies

        dependencies.check_depfile(Path(depfile))  # a minute of work later would be late to say so
    began = time.monotonic()
    from mnv3c import api  # heavy, and not needed to find a wrong option

    with output.progress() as progress:
        library = api.compile(
            model, normalize=normalize, input_shape=input_shape, progress=progress, **options
        )
    seconds = time.monotonic() - began
    if depfile:
        known = dependencies.inputs(model, options["weights"], options["calibration"])
        dependencies.write_depfile(Path(depfile), Path(options["output"], f"{library.name}.h"), known)
    for note in library.notes:
        output.note(note)
    output.result(_facts(library, seconds))
    _tell(output, library, seconds)


def _list_sources(output: Output, options: Mapping[str, Any]) -> None:
    from mnv3c import targets
    from mnv3c.cli import dependencies

    if options["name"] is None:
        raise Mnv3cError("--list-sources needs it", "--name")
    target = targets.get(options["target"])
    names = dependencies.source_names(options["name"], target, options["path"], options["camera"])
    output.result({"ok": True, "sources": names})
    for name in names:
        output.text(name)


def _facts(library: CompiledLibrary, seconds: float) -> dict[str, Any]:
    keys = (
        "name",
        "settings",
        "inputs",
        "outputs",
        "paths",
        "arena_bytes",
        "constant_bytes",
        "macs",
        "notes",
    )
    facts = {k: library.manifest[k] for k in keys}
    mixed = mixed_facts(library.manifest["model"].get("quantization"))
    if mixed is not None:
        facts["mixed"] = mixed
    return {"ok": True, "directory": str(library.directory), **facts, "seconds": round(seconds, 3)}


def _tell(output: Output, library: CompiledLibrary, seconds: float) -> None:
    m = library.manifest
    output.text(f"[bold green]{plain(library.directory)}[/]  {plain(m['summary'])}")
    for kind in ("inputs", "outputs"):
        for t in m[kind]:
            output.text(f"  {kind[:-1]:<9} {plain(t['name'])}: {t['dtype']} {shape(t['shape'])}")
    if "camera" in m:
        output.text(f"  camera    {m['camera']['format']} frames of any size")
    output.text(f"  paths     {', '.join(m['paths'])}")
    output.text(f"  arena     {size(m['arena_bytes'])}")
    output.text(f"  constants {size(m['constant_bytes'])}")
    output.text(f"  work      {millions(m['macs'])} multiply-accumulates")
    tell_mixed(output, mixed_facts(m["model"].get("quantization")))
    output.text(f"  {seconds:.1f} s; check it with: mnv3c verify {plain(library.directory)}")
