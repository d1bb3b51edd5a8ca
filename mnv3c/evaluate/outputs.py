"""Every output of a network for one image, from generated C on this machine or on emulated Arm."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mnv3c import runners, toolchain
from mnv3c.camera import Frame
from mnv3c.codegen.camera import camera_of
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.subject import Subject
from mnv3c.reference import integer
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

    def given(image: np.ndarray) -> list[np.ndarray]:
        return [subject.library_inputs(image[None])[0]]

    if emulate:
        if subject.library is None:
            raise Mnv3cError("runs a compiled library; give its folder", "--emulate")
        emulated = runners.open_runner(subject.library, path or subject.library.paths[0], cc=cc)
        try:
            yield lambda image: emulated.run(given(image)), f"path {emulated.path} on {emulated.where}"
        finally:
            emulated.close()
        return
    try:
        toolchain.find("host", cc)
    except Mnv3cError:
        if cc is not None:
            raise

        def run(image: np.ndarray) -> list[np.ndarray]:
            values = integer.run(graph, {graph.inputs[0]: given(image)[0]})
            return [values[name] for name in graph.outputs]

        yield run, "NumPy (no C compiler for this machine)"
        return
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        directory = Path(folder, "library")
        write_folder(directory, build_library(graph, ["ref"]).files)
        host = HostRunner(runners.open_library(directory), cc=cc)
        try:
            yield lambda image: host.run(given(image)), "path ref on this machine"
        finally:
            host.close()


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
    if emulate:
        emulated = runners.open_runner(library, path or library.paths[0], cc=cc)
        try:
            yield emulated.run_camera, f"path {emulated.path} on {emulated.where}"
        finally:
            emulated.close()
        return
    try:
        toolchain.find("host", cc)
    except Mnv3cError:
        if cc is not None:
            raise

        def run(frame: Frame) -> list[np.ndarray]:
            values = integer.run(graph, {graph.inputs[0]: library_image(frame, levels, graph)})
            return [values[name] for name in graph.outputs]

        yield run, "NumPy (no C compiler for this machine)"
        return
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        directory = Path(folder, "library")
        camera = camera_of(graph, library.manifest["camera"]["format"], levels)
        write_folder(directory, build_library(graph, ["ref"], camera=camera).files)
        host = HostRunner(runners.open_library(directory), cc=cc)
        try:
            yield host.run_camera, "path ref on this machine"
        finally:
            host.close()
