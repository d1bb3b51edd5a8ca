"""The files of a library, as text, from the lowered paths of one network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv3c import __version__
from mnv3c.codegen import camera as cameras
from mnv3c.codegen.constants import ConstantPool, StoredConstant
from mnv3c.codegen.memory import ARENA_ALIGN, MemoryPlan
from mnv3c.codegen.program import Kernel, Program, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir.graph import Graph, Tensor

PATH_IDS = {"ref": 1, "neon": 2, "dotprod": 3, "i8mm": 4, "armv7": 5}
# Clang before 16 knows no architecture in its attribute: extension to its name there, and its macro.
_CLANG_FEATURES = {
    "dotprod": ("dotprod", "__ARM_FEATURE_DOTPROD"),
    "i8mm": ("i8mm", "__ARM_FEATURE_MATMUL_INT8"),
    "rdma": ("rdm", "__ARM_FEATURE_QRDMX"),
}
_CTYPE = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}

# What no tensor can be called: words of C and C++, and names that the generated files use.
_WORDS = (
    "arena inputs outputs auto bool break case catch char class const continue default delete do double else"
    " enum explicit export extern false float for friend goto if inline int long mutable namespace new"
    " operator private protected public register restrict return short signed sizeof static struct switch"
    " template this throw true try typedef typename union unsigned using virtual void volatile while and or"
    " not xor"
)
_RESERVED = frozenset(_WORDS.split())


@dataclass(frozen=True, eq=False)
class LoweredPath:
    """A path's program with its memory plan."""

    program: Program
    memory: MemoryPlan


@dataclass(frozen=True)
class Emitted:
    """The sources of a library.

    Attributes:
        files: relative path to text.
        arena_bytes: the largest of the paths'.
        constant_bytes: of all constants, each counted once.
        layer_constants: (path, layer) to the bytes of constants that the layer reads.
    """

    files: Mapping[str, str]
    arena_bytes: int
    constant_bytes: int
    layer_constants: Mapping[tuple[str, int], int]


def emit(
    graph: Graph,
    paths: Sequence[LoweredPath],
    summary: str,
    notes: Sequence[str] = (),
    camera: cameras.Camera | None = None,
) -> Emitted:
    """Render a library; ``paths`` best first, the last one is what runs when no other can."""
    name = graph.name
    pool = ConstantPool(name)
    path_names = [p.program.path for p in paths]
    common = {
        "name": name,
        "version": __version__,
        "summary": summary,
        "paths": path_names,
        "camera": cameras.values(graph, camera) if camera is not None else None,
    }
    tensors = _public_tensors(graph)
    files: dict[str, str] = {}
    layer_constants: dict[tuple[str, int], int] = {}
    for lowered in paths:
        path = lowered.program.path
        # Every constant first: a later one may raise the alignment of an equal earlier one.
        for stage in lowered.program.stages:
            for constant in stage.constants:
                pool.add(constant)
        files[f"{name}_{path}.c"] = _emit_path(common, lowered, pool, layer_constants)
    constants = pool.stored()
    arena = max(p.memory.arena_bytes for p in paths)
    values = {
        **common,
        "tensors": tensors,
        "constants": constants,
        "arena_bytes": arena,
        "arena_align": ARENA_ALIGN,
        "weight_bytes": sum(c.bytes for c in constants),
        "path_ids": PATH_IDS,
        "layer_counts": {p.program.path: len(p.program.stages) for p in paths},
        "notes": [_comment(n) for n in notes],
        # One path alone is what the user asked for: nothing to find out, no symbol to link.
        "detect": len(paths) > 1,
    }
    sources = [f"{name}.c", f"{name}_weights.c", *(f"{name}_{p}.c" for p in path_names)]
    if camera is not None:
        sources.insert(1, f"{name}_camera.c")
        files[f"{name}_camera.c"] = render("library/camera.c.j2", **values)
        files[f"example/{name}_frames.c"] = render("library/example_frames.c.j2", **values)
    files[f"{name}.h"] = render("library/header.h.j2", **values)
    files[f"{name}_internal.h"] = render("library/internal.h.j2", **values)
    files[f"{name}.c"] = render("library/main.c.j2", **values)
    files[f"{name}_weights.c"] = render("library/weights.c.j2", **values)
    files[f"example/{name}_cli.c"] = render("library/example_cli.c.j2", **values)
    files["CMakeLists.txt"] = render("library/CMakeLists.txt.j2", **values, sources=sources)
    files[f"{name}Config.cmake.in"] = render("library/Config.cmake.in.j2", **values)
    files[f"{name}.pc.in"] = render("library/pc.in.j2", **values)
    files["README.md"] = render("library/README.md.j2", **values, sources=sources)
    return Emitted(files, arena, sum(c.bytes for c in constants), layer_constants)


def _public_tensors(graph: Graph) -> list[dict[str, object]]:
    """The inputs and outputs as the templates want them."""
    result: list[dict[str, object]] = []
    used: set[str] = set()
    for direction, names in (("input", graph.inputs), ("output", graph.outputs)):
        for i, tensor_name in enumerate(names):
            tensor = graph.tensor(tensor_name)
            # One tensor needs no name of the model's: `input` and `output` are what people guess.
            field = direction if len(names) == 1 else identifier(tensor_name)
            # As macros, names that differ by case alone are one.
            while field in _RESERVED or field.upper() in used:
                field += f"_{i}"
            used.add(field.upper())
            quant = tensor.quant
            result.append(
                {
                    "direction": direction,
                    "index": i,
                    "name": _comment(tensor_name),
                    "field": field,
                    "macro": field.upper(),
                    "dtype": tensor.dtype,
                    "ctype": _CTYPE[tensor.dtype],
                    "shape": tensor.shape,
                    "elements": tensor.elements,
                    "bytes": tensor.bytes,
                    "element": tensor.bytes // tensor.elements,
                    "scales": [
                        f"{s:.9g}" + ("" if "." in f"{s:.9g}" or "e" in f"{s:.9g}" else ".0") + "F"
                        for s in quant.scale
                    ]
                    if quant
                    else [],
                    "zero_points": list(quant.zero_point) if quant else [],
                    "meaning": _meaning(graph, tensor, direction),
                }
            )
    return result


def _comment(text: str) -> str:
    """``text`` with nothing in it that ends a comment or a line: names come from the user's model."""
    text = "".join(c if c.isprintable() else "_" for c in text)
    return text.replace("*/", "*_").replace("/*", "/_")


def _literal(text: str) -> str:
    """``text`` as the inside of a string literal, without escapes and trigraphs."""
    return re.sub(r'["\\?]', "_", _comment(text))


def _meaning(graph: Graph, tensor: Tensor, direction: str) -> str:
    described = graph.meta.get("tensors", {})
    if isinstance(described, Mapping) and tensor.name in described:
        return str(described[tensor.name])
    return "What the network takes." if direction == "input" else "What the network returns."


def _emit_path(
    common: Mapping[str, object],
    lowered: LoweredPath,
    pool: ConstantPool,
    layer_constants: dict[tuple[str, int], int],
) -> str:
    program = lowered.program
    stages = []
    name_offsets = [0]
    for i, stage in enumerate(program.stages):
        stored = {c.name: pool.add(c) for c in stage.constants}
        layer_constants[program.path, i] = sum(c.bytes for c in stored.values())
        declarations = _declarations(program, lowered.memory, stage, stored)
        body = "".join(f"  {line}\n" if line else "\n" for line in stage.body.rstrip("\n").split("\n"))
        label = _literal(f"{stage.nodes[0]}: {stage.title}")
        label_bytes = len(label.encode()) + 1
        name_offsets.append(name_offsets[-1] + label_bytes)
        stages.append(
            {
                "title": stage.title,
                "label": label,
                "label_bytes": label_bytes,
                "declarations": declarations,
                "body": body,
                "parts": stage.parts,
                "uses_state": any("state->" in d for d in declarations) or "state->" in body,
                "whole": stage.whole,
                "uses_end": re.search(r"\bshare_end\b", body) is not None,
                "uses_part": re.search(r"\bpart\b", body) is not None,
            }
        )
    extensions = [e for e in _CLANG_FEATURES if e in re.split(r"[+=,]", program.clang_target)]
    if "dotprod" in extensions:
        extensions.append("rdma")  # which armv8.2-a includes
    return render(
        "library/path.c.j2",
        **common,
        path=program.path,
        includes=program.includes,
        gcc_target=program.gcc_target,
        clang_target=program.clang_target,
        old_clang_target=",".join(_CLANG_FEATURES[e][0] for e in extensions),
        old_clang_macros=[_CLANG_FEATURES[e][1] for e in extensions],
        prologue=program.prologue,
        kernels=_unique_kernels(program),
        stages=stages,
        camera_table=lowered.memory.offset(program.columns) if program.columns else None,
        name_offsets=name_offsets[:-1],
        notes=[_comment(n) for n in program.notes],
    )


def _unique_kernels(program: Program) -> list[Kernel]:
    unique: dict[str, Kernel] = {}
    for stage in program.stages:
        for kernel in stage.kernels:
            known = unique.setdefault(kernel.name, kernel)
            if known.source != kernel.source:
                raise ValueError(f"two kernels are called {kernel.name}")
    return list(unique.values())


def _declarations(
    program: Program, memory: MemoryPlan, stage: Stage, constants: Mapping[str, StoredConstant]
) -> list[str]:
    """Local names for the regions and constants that the body mentions (and no others: no warning)."""
    regions = {r.name: r for r in (*program.regions, *stage.scratch)}
    words = set(re.findall(r"\w+", stage.body))
    lines = []
    for region_name in dict.fromkeys((*stage.reads, *stage.writes, *(r.name for r in stage.scratch))):
        if f"R_{region_name}" not in words:
            continue
        region = regions[region_name]
        if region.external is None:
            lines.append(f"uint8_t *const R_{region_name} = state->arena + {memory.offset(region_name)};")
        else:
            kind, i = region.external
            const, given = "const " if kind == "input" else "", f"state->{kind}_{i}"
            if program.image and kind == "input" and not stage.pulls:
                given = f"state->camera != 0 ? state->arena + {memory.offset(program.image)} : {given}"
            lines.append(f"{const}uint8_t *const R_{region_name} = {given};")
    for constant, stored in constants.items():
        if constant not in words:
            continue
        cast = "" if stored.storage == stored.element else f"(const {stored.element} *)"
        lines.append(f"const {stored.element} *const {constant} = {cast}{stored.symbol};")
    return lines
