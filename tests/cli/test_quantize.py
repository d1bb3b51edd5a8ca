"""``mnv3c quantize`` and ``mnv3c eval``: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from tests.codegen.networks import classifier
from tests.command_line import call

ZOO = ("mobilenet_v3_small_minimalistic", "--resolution", "32", "--classes", "10", "--width", "0.5")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["file,label_0based"]
    for i in range(6):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{i}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
def test_quantize_writes_a_file_a_report_and_a_model_that_agree(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file, page, model = (tmp_path / f"net.{suffix}" for suffix in ("mnv3q", "html", "onnx"))
    labels = images / "labels.csv"
    code, out, err = call(
        capsys, "quantize", *ZOO, "--calibration", images, "--input", "uint8", "-o", file, "--report", page,
        "--export-onnx", model, "--images", images, "--labels", labels, "--json",
    )  # fmt: skip
    assert code == 0, out + err
    facts = json.loads(out)
    assert facts["written"] == [str(file), str(model), str(page)]
    assert facts["scores"]["int8"]["images"] == 6 and facts["scores"]["int8"]["signal_to_noise_db"] > 5
    assert len(facts["layers"]) > 10 and len(facts["sensitivity"]) > 20
    text = page.read_text()
    assert "http" not in text and "<script" not in text
    figures = text.count("<figure>")
    assert figures == len(facts["layers"]) and text.count('class="before"') == figures
    body = text.split("<body>")[1].split("</body>")[0]
    ElementTree.fromstring(f"<body>{body}</body>")

    code, out, err = call(capsys, "eval", file, "--images", images, "--labels", labels, "--json")
    assert code == 0, out + err
    again = json.loads(out)
    assert again["engine"] == "int8"
    assert {k: again[k] for k in facts["scores"]["int8"]} == facts["scores"]["int8"]
    assert again["float"] == facts["scores"]["float"]

    code, out, err = call(capsys, "compile", file, "--path", "ref", "-o", tmp_path / "lib", "--json")
    assert code == 0, out + err
    code, out, err = call(
        capsys, "eval", tmp_path / "lib", "--images", images, "--labels", labels, "--json",
        "--engine", "emulated", "--limit", "2",
    )  # fmt: skip
    assert code == 0, out + err
    emulated = json.loads(out)
    code, out, err = call(
        capsys, "eval", tmp_path / "lib", "--images", images, "--labels", labels, "--json", "--limit", "2"
    )
    assert code == 0, out + err
    keys = ("top1", "top5", "agreement", "signal_to_noise_db", "worst")
    assert [emulated[k] for k in keys] == [json.loads(out)[k] for k in keys]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"


def small_model(path: Path) -> Path:
    """Two convolutions with an h-swish, a pool and a head, 8x8."""
    onnx = pytest.importorskip("onnx")
    from tests.frontend.onnx_models import model, node

    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (24, 16, 1, 1), "w3": (8, 24, 1, 1)}
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("HardSwish", ["a"], "b"),
        node("Conv", ["b", "w2"], "c", kernel_shape=[1, 1]),
        node("HardSwish", ["c"], "d"),
        node("GlobalAveragePool", ["d"], "e"),
        node("Conv", ["e", "w3"], "y", kernel_shape=[1, 1]),
    ]
    weights = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    onnx.save(model(nodes, weights, shape=(1, 3, 8, 8)), path)
    return path


@pytest.mark.slow
def test_mixed_shows_what_it_gives_and_costs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tvm")
    monkeypatch.setattr("mnv3c.quant.mixed.LEAST_GAIN_DB", -100.0)
    model, page, library = small_model(tmp_path / "m.onnx"), tmp_path / "net.html", tmp_path / "net"
    wanted = (model, "--calibration", images, "--target", "cortex-a55", "--mixed", "2", "-o")
    code, out, err = call(capsys, "quantize", *wanted, tmp_path / "net.mnv3q", "--report", page, "--json")
    assert code == 0, out + err
    mixed = json.loads(out)["quantization"]["mixed"]
    assert len(mixed["tensors"]) == 2 == len(mixed["tried"]) and mixed["reason"] == ""
    cost = mixed["cost"]
    assert (cost["core"], cost["path"], cost["missing"]) == ("cortex-a55", "dotprod", "")
    assert cost["before"]["instructions"] < cost["after"]["instructions"]
    assert all(cost["before"][k] > 500 for k in ("arena_bytes", "library_bytes"))
    assert "mixed: instructions (cortex-a55, dotprod)" in page.read_text()
    code, out, err = call(capsys, "compile", *wanted, library)
    assert code == 0 and "instructions (cortex-a55, dotprod)" in out and "in 16 bits:" in err, out + err
    manifest = json.loads((library / "manifest.json").read_text())
    assert manifest["model"]["quantization"]["mixed"]["cost"] == cost


def test_eval_of_a_library(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "net", build_library(classifier(), ["ref"], settings={"target": "arm64"}).files)
    labelled = ("--images", images, "--labels", images / "labels.csv")
    code, out, err = call(capsys, "eval", tmp_path / "net", *labelled, "--json")
    assert code == 0, out + err
    facts = json.loads(out)
    assert facts["images"] == 6 and facts["float"] is None and facts["agreement"] is None
    wrong = sum(row["wrong"] for row in facts["worst"])
    assert wrong == round(6 * (1 - facts["top1"]))
    code, out, err = call(capsys, "eval", tmp_path / "net", *labelled)
    assert code == 0 and "top-1" in out and "path ref on this machine" in out
    code, out, err = call(capsys, "eval", tmp_path / "net", *labelled, "--engine", "float")
    assert code == 2 and "there is no float network" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("quantize", "m", "--images", "x"), "--labels: --images and --labels go together"),
        (("quantize", *ZOO, "--mixed"), "--mixed: needs --calibration"),
        (("quantize", "m", "--mixed", "0"), "--mixed"),
        (("quantize", "m", "--clipping", "sharp"), "--clipping"),
        (("quantize", "m", "-o", "net.bin"), "does not end in .mnv3q"),
        (("quantize", "m", "--report", "no-such-folder/r.html"), "--report: no folder"),
        (("eval", "m", "--images", "x", "--labels", "y", "--engine", "emulated"), "give its folder"),
        (("eval", "m", "--images", "x", "--labels", "y", "--path", "ref"), "for --engine emulated"),
        (("eval", "no.mnv3q", "--images", "x", "--labels", "y"), "no.mnv3q: cannot read"),
        (("compile", "no.mnv3q", "-o", "z"), "no.mnv3q: cannot read"),
        (("quantize", "no.mnv3q"), "no.mnv3q: comes quantised"),
    ],
)
def test_bad_use_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2 and expected in err and err.count("\n") == 1 and not out
