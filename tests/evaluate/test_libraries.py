"""The engines that run generated C give the bits of the NumPy reference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mnv3c import toolchain
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.libraries import emulated_engine, host_engine
from mnv3c.evaluate.subject import Subject, open_subject
from mnv3c.reference import integer as reference
from tests.codegen.networks import classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lib") / "net"
    write_folder(folder, build_library(classifier(), ["ref"], settings={"target": "arm64"}).files)
    return folder


def images(subject: Subject, count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, *subject.shape), dtype=np.uint8)


def wanted(subject: Subject, pixels: np.ndarray) -> np.ndarray:
    graph = subject.integer
    assert graph is not None
    results = []
    for x in subject.library_inputs(pixels):
        results.append(reference.run(graph, {graph.inputs[0]: x})[graph.outputs[0]])
    return subject.scores(np.stack(results))


def test_host_engine_gives_the_reference_bits_in_every_thread(folder: Path) -> None:
    subject = open_subject(str(folder))
    pixels = images(subject, 12)
    with host_engine(subject, 3) as (engine, where), ThreadPoolExecutor(3) as pool:
        got = np.concatenate(list(pool.map(engine, np.split(pixels, 6))))
    assert where == "path ref on this machine"
    assert np.array_equal(got, wanted(subject, pixels))
    assert len(np.unique(got)) > 3


def test_without_a_compiler_numpy_gives_the_same_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise Mnv3cError("no C compiler")

    monkeypatch.setattr(toolchain, "find", none)
    subject = open_subject(str(folder))
    pixels = images(subject, 3)
    with host_engine(subject, 1) as (engine, where):
        assert np.array_equal(engine(pixels), wanted(subject, pixels))
    assert "no C compiler" in where
    with pytest.raises(Mnv3cError, match="no C compiler"), host_engine(subject, 1, "some-cc"):
        pass


@pytest.mark.slow
def test_emulated_engine_gives_the_same(folder: Path) -> None:
    subject = open_subject(str(folder))
    pixels = images(subject, 3)
    with emulated_engine(subject) as (engine, where):
        assert np.array_equal(engine(pixels), wanted(subject, pixels))
    assert "Unicorn" in where or "machine" in where


def test_emulation_is_of_a_library(folder: Path) -> None:
    subject = open_subject(str(folder))
    alone = Subject("net", subject.integer, None, None, None)
    with pytest.raises(Mnv3cError, match="compiled library"), emulated_engine(alone):
        pass


def test_a_library_takes_no_options_of_models(folder: Path) -> None:
    with pytest.raises(Mnv3cError, match=r"--shape: .*says it all"):
        open_subject(str(folder), input_shape=(3, 8, 8))
    with pytest.raises(Mnv3cError, match="--calibration"):
        open_subject(str(folder), calibration="images")
