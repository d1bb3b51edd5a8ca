"""Every output of a network for one image, from generated C on this machine or on emulated Arm."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mnv3c import runners, toolchain
from mnv3c.camera import Frame
from mnv3c.codegen.camera import Camera, camera_of
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.subject import Subject
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import Library, Runner
from mnv3c.runners.host import HostRunner
from mnv3c.verification.frames import library_image
from mnv3c.verification.inputs import byte_levels

# Bytes (H, W, C) to the library's outputs, as it returns them.
Run = Callable[[np.ndarray], list[np.ndarray]]


@contextlib.contextmanager
def open_outputs(
    subject: Subject, *, emulate: bool = False, path: str | None = None, cc: str | None = None
) -> Iterator[tuple[Run, str]]:
    """A function that runs the network on an image, and a name of what runs.

    Args:
        emulate: a compiled library's own path on emulated Arm; else the ``ref`` path, built for this machine
            (without a C compiler the NumPy executor, which gives the same bits).
        path: which path is emulated; by default the library's best.

    Raises:
        Mnv3cError: ``emulate`` without a compiled library, or a build that fails.
    """
    graph = subject.integer
    assert graph is not None
    with _open(graph, subject.library, None, emulate, path, cc) as (runner, where):

        def run(image: np.ndarray) -> list[np.ndarray]:
            given = subject.library_inputs(image[None])[0]
            return runner.run([given]) if runner is not None else _in_numpy(graph, given)

        yield run, where


@contextlib.contextmanager
def open_camera(
    subject: Subject, *, emulate: bool = False, path: str | None = None, cc: str | None = None
) -> Iterator[tuple[Callable[[Frame], list[np.ndarray]], str]]:
    """A function that runs a compiled library on a frame of its camera; otherwise as ``open_outputs``.

    Raises:
        Mnv3cError: the library has no camera, or a build that fails.
    """
    graph, library = subject.integer, subject.library
    if graph is None or library is None or "camera" not in library.manifest:
        raise Mnv3cError("runs a library that was compiled with --camera; give its folder", "--fit")
    levels = byte_levels(graph, subject.network, subject.normalize)
    camera = camera_of(graph, library.manifest["camera"]["format"], levels)
    with _open(graph, library, camera, emulate, path, cc) as (runner, where):

        def run(frame: Frame) -> list[np.ndarray]:
            if runner is not None:
                return runner.run_camera(frame)
            return _in_numpy(graph, library_image(frame, levels, graph))

        yield run, where


@contextlib.contextmanager
def _open(
    graph: Graph,
    library: Library | None,
    camera: Camera | None,
    emulate: bool,
    path: str | None,
    cc: str | None,
) -> Iterator[tuple[Runner | None, str]]:
    """What runs the network, and its name; ``None`` for NumPy."""
    if emulate:
        if library is None:
            raise Mnv3cError("runs a compiled library; give its folder", "--emulate")
        with contextlib.closing(runners.open_runner(library, path or library.paths[0], cc=cc)) as emulated:
            yield emulated, f"path {emulated.path} on {emulated.where}"
        return
    try:
        toolchain.find("host", cc)
    except Mnv3cError:
        if cc is not None:
            raise
        yield None, "NumPy (no C compiler for this machine)"
        return
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        directory = Path(folder, "library")
        write_folder(directory, build_library(graph, ["ref"], camera=camera).files)
        with contextlib.closing(HostRunner(runners.open_library(directory), cc=cc)) as host:
            yield host, "path ref on this machine"


def _in_numpy(graph: Graph, given: np.ndarray) -> list[np.ndarray]:
    values = integer.run(graph, {graph.inputs[0]: given})
    return [values[name] for name in graph.outputs]
