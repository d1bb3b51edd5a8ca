"""``verify`` finds what is wrong with a library, and its figures are what their names say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph, Tensor
from mnv3c.quant import quantize
from mnv3c.runners.process import qemu
from mnv3c.verification import verify
from mnv3c.verification.errors import compare
from tests.codegen.networks import classifier, doors


def library(folder: Path, graph: Graph, network: Graph | None = None) -> Path:
    built = build_library(graph, ["ref"], settings={"target": "arm64"}, float_graph=network)
    write_folder(folder, built.files)
    return folder


def float_network(channels: int = 3) -> Graph:
    """A convolution, ReLU, pool and softmax, with weights that tell the channels apart."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(8, 3, 3, channels)).astype(np.float32)
    head = rng.normal(size=(4, 1, 1, 8)).astype(np.float32)
    return Graph(
        "small",
        (
            f.Conv2d("conv", ("input",), ("a",), weight, np.zeros(8, np.float32), (2, 2), (0, 0, 1, 1)),
            f.Activation("relu", ("a",), ("b",), "clip", low=0.0),
            f.GlobalAveragePool("pool", ("b",), ("c",)),
            f.Conv2d("head", ("c",), ("logits",), head, np.zeros(4, np.float32)),
            f.Softmax("softmax", ("logits",), ("probabilities",)),
        ),
        {
            "input": Tensor("input", (8, 8, channels)),
            "a": Tensor("a", (4, 4, 8)),
            "b": Tensor("b", (4, 4, 8)),
            "c": Tensor("c", (1, 1, 8)),
            "logits": Tensor("logits", (1, 1, 4)),
            "probabilities": Tensor("probabilities", (1, 1, 4)),
        },
        ("input",),
        ("probabilities",),
    )


@pytest.mark.parametrize("graph", [classifier(), doors()], ids=["classifier", "doors"])
@pytest.mark.parametrize(
    "runner",
    [
        "auto",
        "host",
        pytest.param("qemu", marks=pytest.mark.skipif(qemu() is None, reason="no qemu-aarch64")),
    ],
)
def test_generated_libraries_are_equal(tmp_path: Path, graph: Graph, runner: str) -> None:
    steps: list[tuple[str, int, int]] = []
    folder = library(tmp_path / "lib", graph)
    report = verify(folder, runner=runner, progress=lambda *step: steps.append(step))
    assert report.ok and report.paths[0].runs == 4 and not report.errors
    assert {"NumPy reference", "build ref", "run ref"} <= {s for s, _, _ in steps}
    assert all(0 <= done <= total for _, done, total in steps)
    json.dumps(report.as_dict())


def test_a_wrong_kernel_is_found(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", classifier())
    source = folder / "net_ref.c"
    text = source.read_text()
    assert "INT64_C(1) << 30" in text
    source.write_text(text.replace("INT64_C(1) << 30", "INT64_C(0)"))  # rounds down instead of to the nearest
    report = verify(folder, runner="host", count=8)
    assert not report.ok and report.changed_files == ("net_ref.c was changed",)
    assert "values differ, the first at [0, 0," in report.paths[0].problem


def test_a_crash_is_reported_and_not_raised(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", classifier())
    source = folder / "net.c"
    source.write_text(
        source.read_text().replace("  state.input_0 =", "  *(volatile int *)8 = 0;\n  state.input_0 =")
    )
    report = verify(folder)
    assert not report.ok and "bad write" in report.paths[0].problem and "net_run+" in report.paths[0].problem


def test_a_library_that_writes_beyond_its_arena_is_found(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", classifier())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["arena_bytes"] -= 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for runner in ("unicorn", "host"):
        assert "arena" in verify(folder, runner=runner).paths[0].problem


@pytest.mark.parametrize("input_dtype", ["int8", "uint8", "float32"])
def test_error_against_float_on_images(tmp_path: Path, input_dtype: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(images / f"{i}.png")
    network = float_network()
    normalize = Normalization.from_mean_std((0.3, 0.5, 0.6), (0.2, 0.3, 0.25))
    pixels = [normalize.apply(rng.integers(0, 256, (8, 8, 3))) for _ in range(8)]
    integer = quantize(network, pixels, input_dtype=input_dtype, normalization=normalize)
    report = verify(library(tmp_path / "lib", integer, network), runner="host", images=images, limit=3)
    error = report.errors[0]
    assert report.ok and report.paths[0].runs == 4 + 3
    assert (error.source, error.inputs) == ("images", 3)
    # A wrong normalisation, or a softmax compared with logits, would be far from this.
    assert error.cosine > 0.999 and error.sqnr_db > 25


def test_figures_by_hand() -> None:
    want = np.array([[3.0, 4.0], [0.0, 1.0]]).reshape(2, 1, 1, 2)
    got = np.array([[4.0, 3.0], [0.0, 1.0]]).reshape(2, 1, 1, 2)
    e = compare("y", "random", want, got)
    assert e.cosine == pytest.approx((24 / 25 + 1) / 2)
    assert e.sqnr_db == pytest.approx(10 * np.log10(26 / 2))
    assert e.top1_agreement == 0.5
    assert compare("y", "random", want, want).sqnr_db == np.inf


def test_bad_folders(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", classifier())
    with pytest.raises(Mnv3cError, match="no float network"):
        verify(folder, images=tmp_path)
    reference = folder / "reference" / "integer.npz"
    good = reference.read_bytes()
    reference.write_bytes(good[:500])
    with pytest.raises(Mnv3cError, match=r"integer\.npz: damaged graph file"):
        verify(folder)
    shutil.copy(library(tmp_path / "other", doors()) / "reference" / "integer.npz", reference)
    with pytest.raises(Mnv3cError, match="manifest and reference describe different tensors"):
        verify(folder)
    reference.unlink()
    with pytest.raises(Mnv3cError, match="No such file"):
        verify(folder)
