"""``mnv3c bench`` on a small library: figures that must agree with one another, JSON, page, errors."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from mnv3c.bench import html, llvm, qemu, table
from mnv3c.bench import report as reports
from mnv3c.bench.html import memory_map
from mnv3c.bench.report import Placement
from mnv3c.cli import main
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.ir import int_ops as q
from mnv3c.runners.library import open_library
from mnv3c.toolchain import find
from tests.graphs import Builder, inverted_residual


@pytest.fixture(scope="module")
def network():
    b = Builder(3, "tiny")
    x = b.conv(b.input(12, 12, 3), 8, 3, stride=2, pad=(0, 0, 1, 1))
    return b.finish(inverted_residual(b, x, 24, 8, 3, 1, reduced=8))


@pytest.fixture(scope="module")
def library(network, tmp_path_factory):
    try:
        find("aarch64")
    except Mnv3cError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("library") / "tiny"
    write_folder(folder, build_library(network, ["ref"]).files)
    return open_library(folder)


@pytest.fixture(scope="module")
def counted(library):
    """The report under qemu, for an in-order core."""
    if qemu.available() is None:
        pytest.skip("qemu-aarch64 is not installed")
    return reports.bench(library, cpu="cortex-a53")


def test_layers_add_up_to_the_run(counted):
    layers = sum(layer.cost.instructions for layer in counted.layers)
    # The run has the calls of the layers in addition; a layer has the call of the callback after it.
    assert abs(counted.total.instructions - layers) <= 20 * len(counted.layers) + 100
    assert sum(layer.cost.macs for layer in counted.layers) == counted.total.macs
    for cost in (counted.total, *(layer.cost for layer in counted.layers)):
        assert sum(cost.classes.values()) == cost.instructions > 0


def test_titles_and_macs_are_the_manifests(counted, library):
    program = library.manifest["programs"]["ref"]
    assert [layer.title for layer in counted.layers] == [entry["title"] for entry in program["layers"]]
    assert counted.sizes.arena == program["arena_bytes"]
    # 6x6x8 outputs of 3x3x3 taps.
    assert counted.layers[0].cost.macs == 6 * 6 * 8 * 27


def test_memory(counted, network):
    weights = sum(n.weight.size for n in network.nodes if isinstance(n, q.QConv))
    s = counted.sizes
    assert s.int8_weights == weights
    assert s.writable == 0
    assert s.text > 1000
    assert s.rodata >= weights
    assert s.beyond_weights == s.text + s.rodata - weights
    assert 64 <= s.stack <= 16384


def test_traffic(counted, library):
    total = counted.total
    # At the least: the weights and the input read once, the output written once.
    assert total.bytes_loaded >= counted.sizes.int8_weights + library.inputs[0].bytes
    assert total.bytes_stored >= library.outputs[0].bytes
    # In the steady state all of it lies in the L2: the constants, the arena, input and output.
    assert total.l1_fills < 600
    assert total.l2_fills == 0


@pytest.mark.skipif(llvm.tools() is None, reason="llvm-mc and llvm-mca are not installed")
def test_cycles(counted):
    total = counted.total
    assert counted.model is not None
    assert "scoreboard" in counted.model
    # An A53 issues two a cycle at the most; nothing here waits more than 5 cycles an instruction.
    assert total.instructions / 2 <= total.cycles <= total.instructions * 5
    assert sum(layer.cost.cycles for layer in counted.layers) == pytest.approx(total.cycles, rel=0.05)
    assert 0 <= total.multiply_share <= 1
    assert total.macs_per_cycle == pytest.approx(total.macs / total.cycles)


def test_threads(counted):
    by_workers = {t.workers: t for t in counted.threads}
    assert by_workers[1].share == pytest.approx(1.0)
    assert 1 > by_workers[2].share >= 0.5
    assert by_workers[2].share >= by_workers[4].share >= 0.25
    # Against a run that divides nothing: what shares cost more than it is no speed-up.
    assert by_workers[1].efficiency == pytest.approx(1.0)
    assert 0.2 < by_workers[4].efficiency <= 1.05 / (4 * by_workers[4].share)  # the calls count, too


@pytest.mark.slow
def test_unicorn_counts_the_same(counted, library, monkeypatch):
    monkeypatch.setattr(qemu, "available", lambda: None)
    monkeypatch.setattr(llvm, "tools", lambda: None)
    other = reports.bench(library, cpu="cortex-a53")
    assert other.counter.startswith("unicorn")
    assert len(other.missing) == 2
    assert other.total.cycles is None
    assert other.total.l1_fills is None
    # The same C, position-independent here: a few instructions more or less to find the weights.
    for ours, theirs in zip(counted.layers, other.layers, strict=True):
        assert theirs.cost.instructions == pytest.approx(ours.cost.instructions, rel=0.05, abs=60)
    page = html.page(other)
    assert "Not shown: line fills" in page
    assert "MACs per cycle" not in page
    assert [t.share for t in other.threads] == pytest.approx([t.share for t in counted.threads], rel=0.02)


_NUMBER = (int, float)
_COST = {
    "instructions": int,
    "classes": dict,
    "macs": int,
    "cycles": (*_NUMBER, type(None)),
    "macs_per_cycle": (*_NUMBER, type(None)),
    "multiply_share": (*_NUMBER, type(None)),
    "bytes_loaded": int,
    "bytes_stored": int,
    "l1_fills": (int, type(None)),
    "l2_fills": (int, type(None)),
}
_MEMORY = ("arena", "stack", "text", "rodata", "writable", "unwind", "int8_weights", "beyond_weights")
_SCHEMA = {
    "format": int,
    "mnv3c": str,
    "library": str,
    "path": str,
    "core": str,
    "counter": str,
    "compiler": {"name": str, "version": str, "flags": list},
    "model": (str, type(None)),
    "missing": list,
    "total": _COST,
    "sizes": dict.fromkeys(_MEMORY, int),
    "layers": [
        {
            "index": int,
            "name": str,
            "title": str,
            "cost": _COST,
            "parts": int,
            "constant_bytes": int,
            "scratch_bytes": int,
        }
    ],
    "threads": [{"workers": int, "share": _NUMBER, "efficiency": _NUMBER}],
    "arena": [{"region": str, "offset": int, "bytes": int, "first": int, "last": int}],
}


def _check(value, schema, place="report"):
    if isinstance(schema, dict):
        assert set(value) == set(schema), place
        for key, inner in schema.items():
            _check(value[key], inner, f"{place}.{key}")
    elif isinstance(schema, list):
        assert value, place
        for i, item in enumerate(value):
            _check(item, schema[0], f"{place}[{i}]")
    else:
        assert isinstance(value, schema), f"{place}: {value!r}"


def test_json_has_the_documented_fields(counted):
    _check(json.loads(json.dumps(counted.as_json())), _SCHEMA)


class _Page(HTMLParser):
    """Collects tags and attributes; every element must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_well_formed(counted, tmp_path):
    file = tmp_path / "page.html"
    html.write(file, counted)
    text = file.read_text()
    page = _Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [a for a, _ in page.attributes if a in ("src", "href", "xlink:href", "srcset")]
    assert not re.search(r"https?:|url\(|@import", text)
    # A region a rectangle, and for each layer at least its bar of instructions and that of cycles.
    assert page.tags.count("rect") >= len(counted.arena) + 2 * len(counted.layers)
    for layer in counted.layers:
        assert layer.title in text


def test_text_in_the_page_is_escaped(counted):
    evil = dataclasses.replace(counted.layers[0], title='<script>alert("&")</script>')
    page = html.page(dataclasses.replace(counted, layers=(evil, *counted.layers[1:])))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_page_that_cannot_be_written(counted, tmp_path):
    with pytest.raises(Mnv3cError, match="cannot write the page"):
        html.write(tmp_path / "missing" / "page.html", counted)


def test_the_memory_map_is_to_scale():
    arena = [Placement("a", 0, 512, 0, 1), Placement("b", 512, 512, 1, 3)]
    a, b = memory_map(arena, 1024, 4)
    assert (a.x, a.width) == (0, b.x + a.width / 2)
    assert a.y == b.height == a.height  # a is the lower half, from the middle down
    assert b.y == 0
    assert b.x + b.width == 4 * a.width / 2


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (None, ""),
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (9994, "9.99 k"),
        (9996, "10.0 k"),
        (99960, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (25_800_000, "25.8 M"),
        (4_000_000_000, "4000 M"),
    ],
)
def test_counts_for_people(n, text):
    assert table.count(n) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpu", "pentium"], "--cpu: unknown target"),
        (["--cpu", "arm64"], "--cpu: arm64 is a platform"),
        (["--path", "i8mm"], "--path: the library has no path 'i8mm'"),
        (["--cc", "no-such-compiler"], "no-such-compiler"),
    ],
)
def test_bad_use_is_one_line(library, capfd, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(library.directory), *arguments])
    assert stop.value.code == 2
    errors = capfd.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_not_a_library(tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(tmp_path)])
    assert stop.value.code == 2
    assert "no generated library here" in capfd.readouterr().err


def test_command(counted, library, capfd, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(reports, "bench", lambda *_, **options: asked.append(options) or counted)
    page = tmp_path / "page.html"
    main(
        ["bench", str(library.directory), "--cpu", "a53", "--path", "ref", "--no-caches", "--html", str(page)]
    )
    text = capfd.readouterr().out
    assert "whole run" in text
    assert counted.compiler.version in text
    assert page.is_file()
    main(["bench", str(library.directory), "--cc", "some-cc", "--json"])
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(counted.as_json()))
    for options in asked:
        options.pop("progress")
    assert asked == [
        {"cpu": "a53", "path": "ref", "cc": None, "caches": False, "frame": None},
        {"cpu": None, "path": None, "cc": "some-cc", "caches": True, "frame": None},
    ]
