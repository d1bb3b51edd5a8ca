"""Quantised networks saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mnv3c import api
from mnv3c.errors import Mnv3cError
from mnv3c.quant import file as quantized_file
from mnv3c.quant import quantize
from tests.codegen.networks import classifier
from tests.fuzz.test_fuzz_quantized_file import members, resigned
from tests.quant.networks import block_network, inputs


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    graph = block_network(3)
    path = tmp_path / "net.mnv3q"
    quantized_file.save(path, quantize(graph, inputs(graph, 4, 3)), graph)
    return path


def test_compiling_the_file_gives_what_compiling_the_model_gives(saved: Path) -> None:
    graph = block_network(3)
    direct = api.compile(graph, "cortex-a53", calibration=inputs(graph, 4, 3))
    later = api.compile(saved, "cortex-a53")
    code = [f for f in direct.files if f.endswith((".c", ".h"))]
    assert len(code) > 3
    for name in (*code, "reference/float.npz"):
        assert direct.files[name] == later.files[name], name


def test_written_twice_it_has_the_same_bytes_and_nothing_is_left_beside(saved: Path) -> None:
    held = quantized_file.load(saved)
    assert quantized_file.dumps(held.integer, held.network) == saved.read_bytes()
    assert [p.name for p in saved.parent.iterdir()] == ["net.mnv3q"]


def test_a_model_that_came_quantised_has_no_float_graph() -> None:
    held = quantized_file.loads(quantized_file.dumps(classifier(), None))
    assert held.network is None and held.integer.name == "net"


def test_options_of_models_and_other_doors_are_refused(saved: Path) -> None:
    with pytest.raises(Mnv3cError, match="--input"):
        api.compile(saved, input_dtype="uint8")
    with pytest.raises(Mnv3cError, match="--width"):
        api.compile(saved, width=0.5)


def test_another_version_and_another_format_are_named(saved: Path) -> None:
    parts = members(saved.read_bytes())
    header = json.loads(parts["header.json"])
    with pytest.raises(Mnv3cError, match="version 2; this mnv3c reads version 1"):
        quantized_file.loads(resigned(parts, {**header, "version": 2}), "x.mnv3q")
    with pytest.raises(Mnv3cError, match="format 'other'"):
        quantized_file.loads(resigned(parts, {**header, "format": "other"}), "x.mnv3q")
    with pytest.raises(Mnv3cError, match=r"no\.mnv3q: cannot read"):
        quantized_file.load(saved.with_name("no.mnv3q"))


def test_a_graph_of_the_wrong_family_is_refused() -> None:
    with pytest.raises(Mnv3cError, match="in the integer graph"):
        quantized_file.loads(quantized_file.dumps(block_network(1), None), "x.mnv3q")
