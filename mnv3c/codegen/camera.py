"""A library's camera: what its sources are rendered from, and the memory that its paths need for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.camera import FORMATS, MOST_PIXELS, Format
from mnv3c.codegen.program import Program, Region, Stage
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.reference.camera import COEFFICIENTS

_CTYPE = {"int8": "int8_t", "uint8": "uint8_t", "float32": "float"}
_OFFSETS = (("at", "next"), ("half_at", "half_next"), ("third_at", "third_next"))


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera in front of a network's only input.

    Attributes:
        format: how its pixels lie.
        levels: what the library's input holds for each byte of red, green and blue, ``[256, 3]`` of the
            input's dtype.
    """

    format: Format
    levels: np.ndarray


def camera_of(graph: Graph, format_: str, levels: np.ndarray) -> Camera:
    """The camera of format ``format_`` for the integer graph of a library.

    Raises:
        Mnv3cError: no such format, or a network that does not take one image of three colours.
    """
    if format_ not in FORMATS:
        raise Mnv3cError(f"{format_!r} is not one of {', '.join(FORMATS)}", "--camera")
    check(graph)
    return Camera(FORMATS[format_], levels)


def check(graph: Graph) -> None:
    """Raise ``Mnv3cError`` where a camera's image cannot be the network's input."""
    if len(graph.inputs) != 1:
        raise Mnv3cError(f"the network has {len(graph.inputs)} inputs; a camera is for one", "--camera")
    channels = graph.tensor(graph.inputs[0]).shape[2]
    if channels != 3:
        raise Mnv3cError(f"the network takes {channels} channels; a camera's image has 3", "--camera")


def values(graph: Graph, camera: Camera) -> Mapping[str, object]:
    """What the templates know as ``camera``."""
    tensor = graph.tensor(graph.inputs[0])
    height, width, _ = tensor.shape
    f = camera.format
    planes = [{"bytes": n, "half": f.half(i)} for i, n in enumerate(f.planes)]
    groups = [
        {
            "plane": i,
            "half": f.half(i),
            "at": at,
            "next": behind,
            "components": [
                {"index": k, "offset": c.offset} for k, c in enumerate(f.components) if c.plane == i
            ],
        }
        for i, (at, behind) in zip(range(len(f.planes)), _OFFSETS, strict=False)
    ]
    return {
        "format": f.name,
        "yuv": f.yuv,
        "meaning": "; ".join(f.meaning),
        "planes": planes,
        "pair_bytes": [next(n for n in (2, 4, 8) if n >= 2 * bytes_) for bytes_ in f.planes],
        "components": [{"plane": c.plane, "offset": c.offset, "half": c.half} for c in f.components],
        "groups": groups,
        "height": height,
        "width": width,
        "elements": tensor.elements,
        "ctype": _CTYPE[tensor.dtype],
        "tables": [_lines(t) for t in _tables(camera.levels)],
        "most": MOST_PIXELS,
        "full": COEFFICIENTS["full"],
        "limited": COEFFICIENTS["limited"],
    }


def _tables(levels: np.ndarray) -> list[np.ndarray]:
    """A table a colour, one for all where they are equal, none where a byte stays what it is."""
    if levels.dtype == np.uint8 and (levels == np.arange(256)[:, None]).all():
        return []
    if (levels == levels[:, :1]).all():
        return [levels[:, 0]]
    return list(levels.T)


def _lines(table: np.ndarray) -> list[str]:
    texts = [f"{float(v).hex()}F" if table.dtype.kind == "f" else str(v) for v in table.tolist()]
    width = 6 if table.dtype.kind == "f" else 16
    return [", ".join(texts[i : i + width]) + "," for i in range(0, len(texts), width)]


def table_bytes(camera: Camera, width: int) -> int:
    """Of the table of columns that a run makes: for each column two offsets a plane and a weight; or, for
    each 16 columns, where two halves begin in each plane, 6 lists of 16 bytes to take, and 16 weights."""
    planes = len(camera.format.planes)
    return -(-width // 16) * max(16 * (8 * planes + 2), 8 * planes + 6 * 16 + 2 * 16)


def with_camera(program: Program, graph: Graph, camera: Camera) -> Program:
    """``program`` with memory for the table of columns; and for the network's image, with a stage that
    makes it, if any stage cannot ask the camera for its rows."""
    tensor = graph.tensor(graph.inputs[0])
    height, width, channels = tensor.shape
    given = next(r.name for r in program.regions if r.external == ("input", 0))
    table = Region(_unused(program, "camera_columns"), table_bytes(camera, width))
    readers = [s for s in program.stages if given in s.reads]
    stages, regions = list(program.stages), [*program.regions, table]
    image = ""
    if not all(s.pulls for s in readers):
        row_bytes = tensor.bytes // height
        held = Region(_unused(program, "camera_image"), tensor.bytes + 64)
        image = held.name
        regions.append(held)
        made = Stage(
            name=image,
            title=f"camera, {height}x{width}x{channels}",
            nodes=(image,),
            reads=(),
            writes=(image,),
            body=(
                "if (state->camera != 0) {\n"
                f"  for (int32_t y = 0; y < {height}; ++y) {{\n"
                f"    state->camera_row(state->camera, y, R_{image} + y * {row_bytes});\n"
                "  }\n"
                "}\n"
            ),
        )
        stages = [made, *(replace(s, reads=(*s.reads, image)) if given in s.reads else s for s in stages)]
    stages[0] = replace(stages[0], writes=(*stages[0].writes, table.name))
    stages = [replace(s, reads=(*s.reads, table.name)) if s.pulls else s for s in stages]
    return replace(program, stages=tuple(stages), regions=tuple(regions), image=image, columns=table.name)


def _unused(program: Program, name: str) -> str:
    taken = {r.name for r in program.regions} | {r.name for s in program.stages for r in s.scratch}
    while name in taken or re.search(rf"\bR_{name}\b", "".join(s.body for s in program.stages)):
        name += "_"
    return name


def describe(camera: Camera) -> dict[str, object]:
    """What ``manifest.json`` says."""
    f = camera.format
    return {
        "format": f.name,
        "planes": [
            {"what": what, "pixel_bytes": n, "half": f.half(i)}
            for i, (what, n) in enumerate(zip(f.meaning, f.planes, strict=True))
        ],
        "rotations": [0, 90, 180, 270],
        "fits": ["crop", "letterbox", "stretch"],
        "ranges": ["full", "limited"] if f.yuv else [],
        "most_pixels": MOST_PIXELS,
        "resize": "bilinear, centres at halves, no antialiasing",
    }
