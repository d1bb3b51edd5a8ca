"""From a quantised graph to the files of a library, manifest and reference included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mnv3c import __version__
from mnv3c.codegen.camera import Camera, describe, with_camera
from mnv3c.codegen.emit import Emitted, LoweredPath, emit
from mnv3c.codegen.memory import plan_memory
from mnv3c.codegen.printer import print_program
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import MANIFEST
from mnv3c.ir import serialize
from mnv3c.ir.count import macs, total_macs
from mnv3c.ir.graph import Graph, Node, Tensor
from mnv3c.passes import run_passes
from mnv3c.paths import registry
from mnv3c.paths.common.notes import summary as portable_summary

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Library:
    """A library that is not yet on disk.

    Attributes:
        name: prefix of its symbols and files.
        files: relative path to contents; ``manifest.json`` and ``reference/`` among them.
        manifest: what ``manifest.json`` says.
    """

    name: str
    files: Mapping[str, str | bytes]
    manifest: Mapping[str, object]


def build_library(
    graph: Graph,
    paths: Sequence[str],
    *,
    options: Options | None = None,
    float_graph: Graph | None = None,
    settings: Mapping[str, object] | None = None,
    summary: str = "",
    notes: Sequence[str] = (),
    camera: Camera | None = None,
    observe: Callable[[str, Graph], None] | None = None,
    observe_program: Callable[[str, str], None] | None = None,
) -> Library:
    """Run the passes, lower to each path, plan memory and render.

    Args:
        graph: integer graph of primitive operators, as the quantiser makes it; its ``name`` must be
            a C identifier.
        paths: names, best first.
        float_graph: kept in the folder so that ``verify`` can report the error against it.
        settings: what the user chose; for the manifest.
        camera: what the library can be given instead of the input.
        observe: sees the graph after each pass.
        observe_program: sees each path's name and its lowered program as text.

    Raises:
        Mnv3cError: a path is unknown or cannot compute a node.
    """
    options = replace(options or Options(), camera=camera is not None)
    fused = run_passes(graph, observe)
    lowered = []
    for path in paths:
        program = registry.load(path).lower(fused, options)
        if camera is not None:
            program = with_camera(program, fused, camera)
        lowered.append(LoweredPath(program, plan_memory(program)))
        if observe_program is not None:
            observe_program(path, print_program(program, lowered[-1].memory))
    slow = (portable_summary(p.program.path, p.program.notes) for p in lowered)
    notes = (*notes, *(note for note in slow if note is not None))
    emitted = emit(fused, lowered, summary or f"the network {graph.name}", notes, camera)
    files: dict[str, str | bytes] = dict(emitted.files)
    files["reference/integer.npz"] = serialize.dumps(graph)
    if float_graph is not None:
        files["reference/float.npz"] = serialize.dumps(float_graph)
    manifest = _manifest(fused, lowered, emitted, options, settings or {}, summary, notes)
    if camera is not None:
        manifest["camera"] = describe(camera)
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in sorted((n, c if isinstance(c, bytes) else c.encode()) for n, c in files.items())
    }
    files[MANIFEST] = json.dumps(manifest, indent=1) + "\n"
    return Library(graph.name, files, manifest)


def _manifest(
    graph: Graph,
    lowered: Sequence[LoweredPath],
    emitted: Emitted,
    options: Options,
    settings: Mapping[str, object],
    summary: str,
    notes: Sequence[str],
) -> dict[str, object]:
    return {
        "format": MANIFEST_VERSION,
        "mnv3c": __version__,
        "name": graph.name,
        "summary": summary,
        "notes": list(notes),
        "settings": dict(settings),
        "model": {k: v for k, v in graph.meta.items() if k != "tensors"},
        "inputs": [_tensor(graph.tensor(t)) for t in graph.inputs],
        "outputs": [_tensor(graph.tensor(t)) for t in graph.outputs],
        "paths": [p.program.path for p in lowered],
        "arena_bytes": emitted.arena_bytes,
        "constant_bytes": emitted.constant_bytes,
        "macs": total_macs(graph),
        "programs": {p.program.path: _program(graph, p, emitted, options) for p in lowered},
    }


def _shapes(graph: Graph, tensors: Sequence[str], computed_by: Sequence[Node]) -> dict[str, list[int]]:
    """Shapes of tensors, without those that the nodes compute themselves."""
    inner = {o for n in computed_by for o in n.outputs}
    return {t: list(graph.tensor(t).shape) for t in tensors if t not in inner}


def _tensor(t: Tensor) -> dict[str, object]:
    entry: dict[str, object] = {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "bytes": t.bytes}
    if t.quant is not None:
        entry["scale"] = list(t.quant.scale)
        entry["zero_point"] = list(t.quant.zero_point)
    return entry


def _program(graph: Graph, lowered: LoweredPath, emitted: Emitted, options: Options) -> dict[str, object]:
    program, memory = lowered.program, lowered.memory
    nodes = {n.name: n for n in graph.nodes}
    layers = []
    counted: set[str] = set()  # a node may take several stages; its work is said once
    for i, stage in enumerate(program.stages):
        members = [nodes[n] for n in stage.nodes if n in nodes and n not in counted]
        counted.update(stage.nodes)
        layers.append(
            {
                "index": i,
                "name": stage.name,
                "title": stage.title,
                "nodes": list(stage.nodes),
                "macs": sum(macs(graph, n) for n in members),
                "input_shapes": _shapes(graph, [i for n in members for i in n.inputs], members),
                "shapes": _shapes(graph, [o for n in members for o in n.outputs], ()),
                "constant_bytes": emitted.layer_constants[program.path, i],
                "scratch_bytes": sum(r.bytes for r in stage.scratch),
                "parts": stage.parts,
                "tuned": bool(stage.schedule) and not options.tuned.isdisjoint(stage.nodes),
                "schedule": {node: dict(knobs) for node, knobs in stage.schedule.items()},
            }
        )
    return {
        "arena_bytes": memory.arena_bytes,
        "arena_lower_bound": memory.lower_bound,
        "notes": list(program.notes),
        "layers": layers,
        "memory": [
            {
                "region": p.region.name,
                "offset": p.offset,
                "bytes": p.region.bytes,
                "first": p.first,
                "last": p.last,
            }
            for p in memory.placements
        ],
    }
