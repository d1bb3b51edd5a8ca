"""Every output of a network for one image, from generated C on this machine or on emulated Arm."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mnv3c import runners, toolchain
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.subject import Subject
from mnv3c.reference import integer
from mnv3c.runners.host import HostRunner

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
