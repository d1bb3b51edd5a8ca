"""`mnv3c tune`, `mnv3c latency` and `mnv3c compile --records`, on small networks."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys

import pytest

from mnv3c.bench import llvm, qemu
from mnv3c.quant import file as quantized_file
from mnv3c.tuning import grid
from tests.graphs import Builder, inverted_residual
from tests.tuning.networks import network
from tests.waiting import SECONDS, until


@pytest.fixture
def simulated():
    pytest.importorskip("optuna")
    if qemu.available() is None or llvm.tools() is None:
        pytest.skip("qemu-aarch64 or LLVM's tools are not installed")
    return ("--cc", "clang-19") if shutil.which("clang-19") else ()


def in_the_background(arguments, journal):
    """`mnv3c` as a script starts it with `&`, and ended by `kill` once it has measured; its answer."""
    command = [sys.executable, "-m", "mnv3c", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        until(lambda: lines(journal) > 0 or process.poll() is not None, "something is measured")
        process.send_signal(signal.SIGINT)  # not heard
        process.terminate()
        out, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return json.loads(out)


def lines(file):
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_tune_compile_and_latency(run, simulated, tmp_path):
    file, journal = tmp_path / "mine.json", tmp_path / "mine.json.journal"
    model = tmp_path / "tuned.mnv3q"
    quantized_file.save(model, network(), None)
    tune = ("tune", model, "--target", "cortex-a55", "--trials", 4, "-o", file, "--json", *simulated)
    ended = in_the_background((*tune, "--trials", 48), journal)  # long enough to be ended in its midst
    kept = lines(journal)
    assert not ended["complete"] and 0 < ended["measured"] == kept
    assert 0 < len(json.loads(file.read_text())["records"]) <= kept

    code, out, _ = run(*tune)
    first = json.loads(out)
    assert code == 0 and first["complete"] and first["measured"] + kept > 30 and not first["failed"]
    assert first["known"] > 0 and lines(journal) == kept + first["measured"]
    assert 0 < first["tuned_cost"] <= first["default_cost"]
    written = file.read_text()
    code, out, _ = run(*tune)
    again = json.loads(out)
    assert again["measured"] == 0 and again["known"] >= first["measured"] and file.read_text() == written

    family = first["compiler"].split()[0]
    library = tmp_path / "library"
    compile_ = ("compile", model, "--target", "cortex-a55", "-o", library, "--compiler", family)
    code, out, _ = run(*compile_, "--records", file, "--json")
    assert code == 0
    manifest = json.loads((library / "manifest.json").read_text())
    layers = manifest["programs"]["dotprod"]["layers"]
    assert sum(layer["tuned"] for layer in layers) == sum(row["count"] for row in first["layers"])
    assert run("verify", library, "--count", 2)[0] == 0

    table = tmp_path / "layers.csv"
    latency = ("latency", model, "--target", "cortex-a55", "--records", file, "--csv", table, *simulated)
    code, out, _ = run(*latency, "--json")
    rows = list(csv.DictReader(table.open()))
    assert code == 0 and len(rows) == len(json.loads(out)["layers"])
    assert sum(float(r["cost"]) for r in rows) == pytest.approx(first["tuned_cost"], rel=0.02)


@pytest.mark.slow
def test_a_grid_of_blocks_on_the_simulated_core(run, simulated, tmp_path, monkeypatch):
    """A network whose only place takes a block of the grid itself: both tables say the same of it."""
    b = Builder(2, "one")
    x = b.conv(b.input(10, 10, 8), 8)
    x = inverted_residual(b, x, 24, 8, 3, 1)
    quantized_file.save(tmp_path / "one.mnv3q", b.finish(b.conv(x, 8, dtype="int8")), None)
    monkeypatch.setattr(grid, "EXPANSIONS", (3, 6))
    common = ("latency", tmp_path / "one.mnv3q", "--target", "cortex-a55", "--json", *simulated)
    code, out, err = run(*common, "--grid", "--csv", tmp_path / "grid.csv")
    assert code == 0, (out, err)
    blocks = json.loads(out)["blocks"]
    rows = list(csv.DictReader((tmp_path / "grid.csv").open()))
    assert [float(r["cost"]) for r in rows] == [k["cost"] for k in blocks] and len(blocks) == 8
    cost = {(k["kernel"], k["channels"], k["squeeze"]): k["cost"] for k in blocks}
    for kernel, channels, squeeze in cost:
        assert cost[kernel, 24, squeeze] <= cost[kernel, channels, squeeze]
        assert cost[3, channels, squeeze] < cost[5, channels, squeeze]
        assert cost[kernel, channels, 0] < cost[kernel, channels, 1]
    code, out, _ = run(*common)
    layers = {e["layer"]: e["cost"] for e in json.loads(out)["layers"]}
    assert code == 0 and len(layers) > 2
    around = [cost for name, cost in layers.items() if name in ("conv0", "conv7")]
    assert len(around) == 2
    assert sum(layers.values()) - sum(around) == pytest.approx(cost[3, 24, 0], rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tune", "mobilenet_v3_small", "--target", "arm64"), "arm64 is a platform"),
        (("tune", "mobilenet_v3_small", "--target", "cortex-a55", "--path", "i8mm"), "has no path i8mm"),
        (
            ("tune", "mobilenet_v3_small", "--target", "cortex-a55", "--path", "ref"),
            "the path ref has no knobs",
        ),
        (("tune", "mobilenet_v3_small", "--target", "cortex-a55", "--time-budget", "-1"), "not positive"),
        (("latency", "mobilenet_v3_small", "--target", "cortex-a999"), "unknown target"),
        (
            ("compile", "mobilenet_v3_small", "-o", "x", "--target", "arm64", "--records", "y"),
            "records are for one core",
        ),
        (
            ("compile", "mobilenet_v3_small", "-o", "x", "--target", "a55", "--records", "no.json"),
            "no.json: cannot read",
        ),
        (
            ("compile", "mobilenet_v3_small", "-o", "x", "--target", "a55", "--records", "y", "--untuned"),
            "not together with --records",
        ),
    ],
)
def test_bad_use_is_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["tune", "latency"])
def test_help_teaches(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and f"mnv3c {command} mobilenet_v3" in out
