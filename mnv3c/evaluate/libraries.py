"""Engines that run generated C: on this machine for speed, or on emulated Arm."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnv3c import runners, toolchain
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.engines import Engine
from mnv3c.evaluate.subject import Subject
from mnv3c.quant import batched
from mnv3c.runners.host import HostRunner


@contextlib.contextmanager
def host_engine(subject: Subject, workers: int, cc: str | None = None) -> Iterator[tuple[Engine, str]]:
    """The integer network's ``ref`` path, built for this machine, and a name of what runs.

    Every path of a library gives these bits. Without a C compiler for this machine the batched NumPy
    executor runs instead, which gives them too, more slowly.

    Args:
        workers: threads that call the engine at the same time.
        cc: compiler to use; one that was asked for must work.
    """
    assert subject.integer is not None
    try:
        toolchain.find("host", cc)
    except Mnv3cError:
        if cc is not None:
            raise
        yield _numpy_engine(subject), "NumPy (no C compiler for this machine)"
        return
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        directory = Path(folder, "library")
        write_folder(directory, build_library(subject.integer, ["ref"]).files)
        first = HostRunner(runners.open_library(directory), cc=cc)
        free: queue.SimpleQueue[HostRunner] = queue.SimpleQueue()
        for runner in (first, *(first.another() for _ in range(workers - 1))):
            free.put(runner)

        def run(images: np.ndarray) -> np.ndarray:
            runner = free.get()
            try:
                return subject.scores(np.stack([runner.run([x])[0] for x in subject.library_inputs(images)]))
            finally:
                free.put(runner)

        try:
            yield run, "path ref on this machine"
        finally:
            first.close()


def _numpy_engine(subject: Subject) -> Engine:
    graph = subject.integer
    assert graph is not None
    return lambda images: subject.scores(batched.run_integer(graph, subject.library_inputs(images)))


@contextlib.contextmanager
def emulated_engine(
    subject: Subject,
    path: str | None = None,
    kind: str = "auto",
    core: str | None = None,
    cc: str | None = None,
) -> Iterator[tuple[Engine, str]]:
    """A compiled library's own path in Unicorn or qemu (``runners.open_runner``), and a name of it.

    Args:
        path: one of the library's; by default its best.

    Raises:
        Mnv3cError: the subject is no compiled library, or the path cannot be run here.
    """
    library = subject.library
    if library is None:
        raise Mnv3cError("runs a compiled library; give its folder", "--engine emulated")
    runner = runners.open_runner(library, path or library.paths[0], kind, core=core, cc=cc)
    alone = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with alone:
            return subject.scores(np.stack([runner.run([x])[0] for x in subject.library_inputs(images)]))

    try:
        yield run, f"path {runner.path} on {runner.where}"
    finally:
        runner.close()
