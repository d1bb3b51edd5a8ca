"""Small networks that look at a camera, and libraries of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv3c import runners
from mnv3c.codegen.camera import camera_of
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph
from mnv3c.runners import Library
from mnv3c.verification.inputs import byte_levels
from tests.graphs import Builder, inverted_residual

HEIGHT, WIDTH = 23, 37


def network(dtype: str = "int8", name: str = "net") -> Graph:
    """First convolution, an inverted residual and a head, over an image of 23x37."""
    b = Builder(1, name)
    x = b.input(HEIGHT, WIDTH, 3, dtype=dtype)
    if dtype == "uint8":
        x = b.flip_sign(x)
    elif dtype == "float32":
        x = b.quantize(x)
    x = b.hard_swish(b.conv(x, 8, 3, stride=2, pad=(1, 1, 1, 1), dtype="int16"))
    x = inverted_residual(b, x, 24, 8, 3, 2)
    return b.finish(b.conv(b.requantize(b.channel_sum(x), 9), 10, dtype="int16"))


def library(folder: Path, format_: str, paths: list[str], dtype: str = "int8") -> tuple[Library, Graph]:
    """A library with a camera, in ``folder``, and its network."""
    graph = network(dtype)
    camera = camera_of(graph, format_, byte_levels(graph, None))
    write_folder(folder, build_library(graph, paths, camera=camera).files)
    return runners.open_library(folder), serialize.load(folder / "reference" / "integer.npz")


def levels(graph: Graph) -> np.ndarray:
    return byte_levels(graph, None)
