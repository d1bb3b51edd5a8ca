"""The command line in process: answers, exit codes, one-line errors, one JSON object."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mnv3c import targets
from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from tests.codegen.networks import classifier
from tests.command_line import Run


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lib") / "net"
    write_folder(folder, build_library(classifier(), ["ref"], settings={"target": "arm64"}).files)
    return folder


def test_help_is_instant_and_lists_every_command() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mnv3c", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # What it computes, not what it waits for on a busy machine; TVM alone takes longer to load.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0
    for command in ("compile", "verify", "inspect", "zoo", "targets", "doctor"):
        assert f"\n  {command} " in done.stdout
    modules = "import sys, mnv3c.cli, mnv3c; print([m for m in ('tvm', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "mnv3c: error: command line: No such command 'nonsense'"),
        (["compile"], "mnv3c: error: compile: Missing argument 'MODEL'"),
        (
            ["compile", "x", "-o", "y", "--input", "int4"],
            "mnv3c: error: compile: Invalid value for '--input'",
        ),
        (["compile", "x"], "mnv3c: error: compile: Missing option '-o' / '--output'"),
        (["compile", "x", "-o", ""], "mnv3c: error: --output: is empty"),
        (["compile", "x", "-o", "y", "--mean", "1,2,3"], "mnv3c: error: --std: --mean and --std go together"),
        (
            ["compile", "x", "-o", "y", "--mean", "a", "--std", "1"],
            "mnv3c: error: --mean: 'a' is not a number",
        ),
        (["compile", "x", "-o", "y", "--shape", "5"], "mnv3c: error: --shape: '5' is not HxW"),
        (["compile", "x", "-o", "y", "--shape", "0x5"], "mnv3c: error: --shape: '0x5' is not HxW"),
        (["compile", "x", "-o", "y", "--target", "cortex-a75"], "mnv3c: error: --target: unknown target"),
        (["compile", "x", "-o", "y", "--seed", "-1"], "mnv3c: error: compile: Invalid value for '--seed'"),
        (["compile", "x", "-o", "y", "--path", "avx"], "mnv3c: error: --path: unknown path 'avx'"),
        (["compile", "x", "-o", "y", "--name", "2x"], "mnv3c: error: --name: '2x' is not a C identifier"),
        (["verify", "nowhere"], "mnv3c: error: nowhere: no generated library here"),
        (["verify", "nowhere", "--runner", "board"], "mnv3c: error: verify: Invalid value for '--runner'"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_bad_use_is_one_line_and_exit_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert err.startswith(line) and err.count("\n") == 1
    code, out, err = run(*arguments, "--json")
    assert code == 2 and err == ""
    answer = json.loads(out)
    place, message = answer["error"]["place"], answer["error"]["message"]
    assert answer["ok"] is False and f"mnv3c: error: {place}: {message}".startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_another_beta_is_one_line_and_exit_2(run: Run, tmp_path: Path) -> None:
    files = pytest.importorskip("tests.tflite_files")
    file = files.small_network("int8")
    file.operators[-1].builtinOptions.beta = 0.5
    (tmp_path / "net.tflite").write_bytes(file.bytes())
    code, out, err = run("compile", tmp_path / "net.tflite", "-o", tmp_path / "library")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.endswith("(SOFTMAX): has a beta of 0.5; 1 is supported\n")


def test_a_folder_that_is_not_ours_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name, why in (
        ("mine", "not a library of ours, not replaced"),
        ("file", "exists and is not a folder"),
    ):
        code, _, err = run("compile", "mobilenet_v3_small", "-o", tmp_path / name)
        assert code == 2 and why in err and err.count("\n") == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_normalization_is_one_or_the_other(run: Run) -> None:
    code, _, err = run("compile", "x", "-o", "y", "--normalize", "unit", "--mean", "0", "--std", "1")
    assert code == 2 and err == "mnv3c: error: --normalize: give either --normalize or --mean and --std\n"


def test_targets(run: Run) -> None:
    code, out, _ = run("targets")
    assert code == 0 and all(name in out for name in targets.names())
    answer = object_of(run("targets", "--json"))
    a76 = next(t for t in answer["targets"] if t["name"] == "cortex-a76")
    assert a76["core"]["cache"]["l1d_kib"] == 64 and a76["paths"][0] == "dotprod"


def test_zoo(run: Run) -> None:
    answer = object_of(run("zoo", "--json"))
    blocks = {n["name"]: n["blocks"] for n in answer["networks"]}
    assert blocks["mobilenet_v3_large"] == 15 and blocks["mobilenet_v3_small"] == 11
    assert "mobilenet_v3_small_minimalistic" in run("zoo")[1]


def test_doctor(run: Run) -> None:
    answer = object_of(run("doctor", "--json"))
    found = {f["what"]: f for f in answer["findings"]}
    assert answer["ok"] and found["Unicorn emulator"]["ok"] and found["C compiler for Arm"]["ok"]


def test_doctor_says_what_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv3c import doctor

    packages = {"ziglang": ("0.1", "nothing"), "no-such-package": ("", "nothing")}
    monkeypatch.setattr(doctor, "_PACKAGES", packages)
    code, out, _ = run("doctor")
    assert code == 1 and "but 0.1 is needed" in out and "not installed" in out


def test_verify_good_and_bad(run: Run, library: Path, tmp_path: Path) -> None:
    code, out, _ = run("verify", library, "--count", 2)
    assert code == 0 and "bit-equal" in out and "cortex-a53" in out
    answer = object_of(run("verify", library, "--json", "--count", 2))
    assert answer["ok"] and answer["paths"][0]["runs"] == 2 and answer["paths"][0]["equal"]

    wrong = copy(library, tmp_path / "wrong")
    source = wrong / "net_weights.c"
    source.write_text(re.sub(r"\n    -?\d+,", "\n    0,", source.read_text(), count=4))
    code, out, _ = run("verify", wrong, "--count", 1)
    assert code == 1 and "FAILED" in out and "net_weights.c was changed" in out and "failed" in out
    code, out, err = run("verify", wrong, "--count", 1, "--json")
    assert code == 1 and json.loads(out)["ok"] is False and err == ""


def test_verify_bad_requests(run: Run, library: Path) -> None:
    assert run("verify", library, "--path", "i8mm")[2].startswith("mnv3c: error: --path: 'i8mm' is not in")
    assert run("verify", library, "--cpu", "m4")[2].startswith("mnv3c: error: --cpu: unknown target 'm4'")
    assert run("verify", library, "--count", 0)[2] == "mnv3c: error: --count: nothing to run\n"
    assert run("verify", library, "--cc", "no-such-cc")[2].startswith("mnv3c: error: --cc: no such command")
    assert "is not a command line: No closing quotation" in run("verify", library, "--cc", "gcc '")[2]


def test_inspect_library(run: Run, library: Path) -> None:
    code, out, err = run("inspect", library)
    assert code == 0 and err == "" and "depthwise" in out and "arena" in out and "█" in out
    answer = object_of(run("inspect", library, "--json"))
    assert answer["kind"] == "library" and answer["macs"] == sum(
        layer["macs"] for layer in answer["programs"]["ref"]["layers"]
    )
    assert run("inspect", library, "--path", "neon")[0] == 2


@pytest.mark.parametrize("kind", ["qat_qdq.onnx", "qat_uint8.tflite"])
def test_inspect_a_model_that_comes_quantised(run: Run, data: Path, kind: str) -> None:
    file = data / "models" / f"mobilenet_v3_small_1.0_224_{kind}"
    answer = object_of(run("inspect", file, "--json"))
    assert answer["macs"] == pytest.approx(56.5e6, rel=0.01)
    assert any(layer["operator"] == "depthwise 5x5 /2" for layer in answer["layers"])
    for options, place in ((("--shape", "64x64"), "--shape"), (("--classes", "10"), "--classes")):
        code, _, err = run("inspect", file, *options)
        assert (
            code == 2 and err == f"mnv3c: error: {place}: a model that comes quantised says it all itself\n"
        )


def test_damaged_manifests_never_end_in_a_traceback(run: Run, library: Path, tmp_path: Path) -> None:
    """Values replaced or removed at random places: an answer, a failed check, or one line and exit 2."""
    folder = copy(library, tmp_path / "damaged")
    good = json.loads((folder / "manifest.json").read_text())
    rng = random.Random(11)
    strange = [
        None,
        -1,
        0,
        1e300,
        2**70,
        "",
        "../x",
        "a b",
        "[/bold]",
        [],
        {},
        [[]],
        [1, 2],
        True,
        {"sha256": 3},
    ]
    outcomes = set()
    for round_ in range(120):
        manifest = damaged(good, rng, strange)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        command = (
            ("verify", folder, "--runner", "host", "--count", 1) if round_ % 40 == 0 else ("inspect", folder)
        )
        code, out, err = run(*command)
        outcomes.add(code)
        assert code in (0, 1, 2)
        if code == 2:
            assert err.startswith("mnv3c: error: ") and err.count("\n") == 1 and out == ""
    assert {0, 2} <= outcomes


def damaged(manifest: Any, rng: random.Random, strange: list[Any]) -> Any:
    """A copy with one value, at any depth, replaced or removed."""
    result = json.loads(json.dumps(manifest))
    place = result
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            place = inner
            continue
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice(strange)
        return result


@pytest.mark.slow
def test_compile_inspect_verify_a_zoo_network(run: Run, tmp_path: Path) -> None:
    model = ("mobilenet_v3_small_0.35_32", "--classes", 7)
    answer = object_of(run("inspect", *model, "--json"))
    assert answer["kind"] == "model" and answer["outputs"][next(iter(answer["outputs"]))] == [1, 1, 7]
    folder = tmp_path / "new" / "small"
    compiled = object_of(
        run("compile", *model, "-o", folder, "--path", "ref", "--dump-ir", tmp_path / "ir", "--json")
    )
    assert compiled["ok"] and compiled["paths"] == ["ref"] and compiled["macs"] == answer["macs"]
    assert any("RANDOM WEIGHTS" in n for n in compiled["notes"])
    assert len(list((tmp_path / "ir").iterdir())) >= 3
    code, out, err = run("compile", *model, "-o", folder, "--path", "ref")
    assert code == 0 and "arena" in out and "RANDOM WEIGHTS" in err and "RANDOM CALIBRATION" in err
    verified = object_of(run("verify", folder, "--runner", "host", "--json"))
    assert verified["ok"] and verified["errors"][0]["cosine"] > 0.9


@pytest.mark.slow
def test_input_kinds_and_normalisation_survive_to_verify(run: Run, tmp_path: Path) -> None:
    """The float comparison has to know what a byte meant: a wrong map would ruin the cosine."""
    for kind, extra in (
        ("uint8", ("--normalize", "imagenet")),
        ("float32", ()),
        ("uint8", ("--mean", "120", "--std", "60")),
    ):
        folder = tmp_path / "lib"
        model = ("mobilenet_v3_small_minimalistic_0.35_32", "--classes", 5)
        object_of(run("compile", *model, "-o", folder, "--path", "ref", "--input", kind, *extra, "--json"))
        verified = object_of(run("verify", folder, "--runner", "host", "--json", "--count", 6))
        assert verified["ok"] and verified["errors"][0]["cosine"] > 0.95, (kind, extra)


def object_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0 and err == "", (out, err)
    return json.loads(out)


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_a_depfile_that_cannot_be_written_is_told_at_once(run: Run, tmp_path: Path) -> None:
    began = time.process_time()
    code, _, err = run("compile", "mobilenet_v3_small", "-o", tmp_path / "library", "--depfile", tmp_path)
    assert code == 2 and str(tmp_path) in err and len(err.strip().splitlines()) == 1
    assert time.process_time() - began < 10 and not (tmp_path / "library").exists()
