"""Weights for the zoo: every file format and naming, against onnxruntime; and clear errors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.frontend.zoo.layers import layer_shapes
from mnv3c.frontend.zoo.table import ARCHITECTURES, scale_width
from mnv3c.frontend.zoo.torch_file import read_torch
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.reference.floating import run
from tests.frontend.published import State, onnx_model, timm_state, torchvision_state

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SIZE = 64


def logits(graph: Graph, image: np.ndarray) -> np.ndarray:
    return run(graph, {"input": image})[graph.outputs[0]].ravel()


def truth(state: State, variant: str, image: np.ndarray, epsilon: float = 0.001) -> np.ndarray:
    data = onnx_model(state, variant, SIZE, epsilon).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image.transpose(2, 0, 1)[None]})[0].ravel()


def an_image() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("variant", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_torchvision_names_give_torchvisions_network(variant: str, tmp_path: Path) -> None:
    state, image = torchvision_state(variant), an_image()
    path = tmp_path / "weights.npz"
    np.savez(path, **state)
    graph = load(f"mobilenet_v3_{variant}", resolution=SIZE, weights=str(path))
    want = truth(state, variant, image)
    assert np.abs(logits(graph, image) - want).max() / np.abs(want).max() < 1e-4
    assert graph.meta["random_weights"] is False
    assert graph.meta["naming"] == "torchvision"
    assert graph.meta["classes"] == 10
    affine = graph.meta["input_affine"]
    assert affine == {
        "scale": pytest.approx([1 / 0.229, 1 / 0.224, 1 / 0.225]),
        "shift": pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]),
    }


def test_timm_names_give_the_same_network(tmp_path: Path) -> None:
    """timm's own weights have an epsilon of 1e-5."""
    state, image = torchvision_state("small"), an_image()
    path = tmp_path / "mobilenetv3_small_100.safetensors"
    save_file(timm_state(state, "small"), path)
    graph = load("mobilenet_v3_small", resolution=SIZE, weights=str(path))
    want = truth(state, "small", image, 1e-5)
    assert np.abs(logits(graph, image) - want).max() / np.abs(want).max() < 1e-4
    assert (graph.meta["naming"], graph.meta["padding"]) == ("timm", "torch")


def test_timm_ports_from_tensorflow(tmp_path: Path) -> None:
    """A file name that begins with ``tf_``: SAME padding, epsilon 1e-3, inputs in [-1, 1]."""
    path = tmp_path / "tf_mobilenetv3_small_100.npz"
    np.savez(path, **timm_state(torchvision_state("small"), "small"))
    graph = load("mobilenet_v3_small", resolution=SIZE, weights=str(path))
    assert graph.meta["padding"] == "tf"
    assert graph.nodes[0].pad == (0, 0, 1, 1)  # type: ignore[attr-defined]
    assert graph.meta["input_affine"] == {"scale": [2.0] * 3, "shift": [-1.0] * 3}
    symmetric = load("mobilenet_v3_small", resolution=SIZE, weights=str(path), padding="torch")
    assert symmetric.nodes[0].pad == (1, 1, 1, 1)  # type: ignore[attr-defined]


def test_own_layer_names(tmp_path: Path) -> None:
    """The weights of a network, saved under the zoo's own names, make the same network again."""
    graph = load("mobilenet_v3_small_minimalistic_0.5_64", classes=5)
    architecture = scale_width(ARCHITECTURES["mobilenet_v3_small_minimalistic"], 0.5)
    names = [s.name for s in layer_shapes(architecture, 5)]
    convs = [n for n in graph if isinstance(n, f.Conv2d)]
    state: State = {}
    for name, conv in zip(names, convs, strict=True):
        state |= {f"{name}.weight": conv.weight.transpose(0, 3, 1, 2), f"{name}.bias": conv.bias}
    path = tmp_path / "weights.npz"
    np.savez(path, **state)
    again = load("mobilenet_v3_small_minimalistic_0.5_64", weights=str(path))
    assert (again.meta["naming"], again.meta["classes"]) == ("mnv3c", 5)
    assert logits(again, an_image()) == pytest.approx(logits(graph, an_image()), abs=1e-6)


def test_pytorch_checkpoint_end_to_end(tmp_path: Path) -> None:
    """A checkpoint in PyTorch's zip format, written by hand here, gives the same graph as the npz."""
    state = torchvision_state("small")
    np.savez(tmp_path / "weights.npz", **state)
    write_pth(tmp_path / "weights.pth", state)
    graphs = [
        load("mobilenet_v3_small", resolution=SIZE, weights=str(tmp_path / f"weights.{suffix}"))
        for suffix in ("npz", "pth")
    ]
    assert np.array_equal(logits(graphs[0], an_image()), logits(graphs[1], an_image()))


def write_pth(path: Path, state: State) -> None:
    """The pickle is spelled out in opcodes, as PyTorch writes it."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")  # protocol 2, empty dict, mark
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, value) in enumerate(state.items()):
            kind = b"LongStorage" if value.dtype == np.int64 else b"FloatStorage"
            out.write(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(")
            out.write(b"(" + _text("storage") + b"ctorch\n" + kind + b"\n" + _text(str(key)) + _text("cpu"))
            out.write(_number(value.size) + b"tQ" + _number(0))
            strides = [s // value.itemsize for s in np.ascontiguousarray(value).strides]
            for numbers in (value.shape, strides[: value.ndim]):
                out.write(b"(" + b"".join(map(_number, numbers)) + b"t")
            out.write(b"\x89ccollections\nOrderedDict\n)RtR")  # requires_grad, hooks, build
            archive.writestr(f"weights/data/{key}", value.tobytes())
        out.write(b"u.")
        archive.writestr("weights/data.pkl", out.getvalue())


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _number(value: int) -> bytes:
    return b"J" + int(value).to_bytes(4, "little")


@pytest.mark.parametrize("name", ["zip", "legacy", "wrapped"])
def test_checkpoints_that_pytorch_wrote(name: str) -> None:
    """Both containers; half, bfloat16 and double; strided views of a shared storage; a wrapping dict."""
    tensors = read_torch(CHECKPOINTS / f"{name}.pth")
    with np.load(CHECKPOINTS / "expected.npz") as expected:
        assert sorted(tensors) == sorted(expected.files)
        for key in expected.files:
            assert np.array_equal(tensors[key], expected[key]), key


@pytest.mark.parametrize(("name", "says"), [("hostile", "system"), ("module", "Conv2d")])
def test_checkpoints_with_code_are_refused(name: str, says: str) -> None:
    with pytest.raises(Mnv3cError, match=f"{says}, which a state dict does not need"):
        read_torch(CHECKPOINTS / f"{name}.pth")


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_damaged_checkpoints(name: str, tmp_path: Path) -> None:
    data = (CHECKPOINTS / f"{name}.pth").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pth"
    for _ in range(150):
        broken = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            broken[position] = rng.integers(0, 256)
        path.write_bytes(bytes(broken[: rng.integers(1, len(data) + 1)] if rng.random() < 0.5 else broken))
        try:
            read_torch(path)
        except Mnv3cError:
            continue


def changed(change: Callable[[State], object]) -> State:
    state = torchvision_state("small")
    change(state)
    return state


BAD = {
    "missing": (
        lambda s: s.pop("features.4.block.1.1.running_mean"),
        "features.4.block.1.1.running_mean' is miss",
    ),
    "missing layer": (
        lambda s: s.pop("features.4.block.1.0.weight"),
        "features.4.block.1.0.weight' is missing",
    ),
    "wrong shape": (
        lambda s: s.update({"features.0.0.weight": np.zeros((16, 1, 3, 3), np.float32)}),
        "'features.0.0.weight' (stem) has shape [16, 1, 3, 3], the network needs [16, 3, 3, 3]",
    ),
    "wrong bias": (
        lambda s: s.update({"classifier.0.bias": np.zeros(7, np.float32)}),
        "'classifier.0.bias' (head) has shape [7], the network needs [1024]",
    ),
    "nan": (
        lambda s: s.update({"features.0.1.bias": np.full(16, np.nan, np.float32)}),
        "'features.0.1.bias' does not hold finite numbers",
    ),
    "too much": (lambda s: s.update({"features.99.0.weight": np.zeros(3)}), "do not belong to this network"),
    "other names": (lambda s: (s.clear(), s.update({"layer1.weight": np.zeros(3)})), "neither torchvision's"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_fit(case: str, tmp_path: Path) -> None:
    change, says = BAD[case]
    path = tmp_path / "weights.npz"
    np.savez(path, **changed(change))
    with pytest.raises(Mnv3cError) as caught:
        load("mobilenet_v3_small", resolution=SIZE, weights=str(path))
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_weights_of_the_other_variant(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **torchvision_state("large"))
    with pytest.raises(Mnv3cError, match="tensor 'features"):
        load("mobilenet_v3_small", resolution=SIZE, weights=str(path))


def test_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **torchvision_state("small", classes=12))
    with pytest.raises(Mnv3cError, match="have 12 classes, 10 are asked for"):
        load("mobilenet_v3_small", resolution=SIZE, weights=str(path), classes=10)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".pt", ".txt"])
def test_unreadable_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(Mnv3cError, match="no such file"):
        load("mobilenet_v3_small", weights=str(path))
    for content in (b"", b"PK\x03\x04 not really", bytes(range(256)) * 20):
        path.write_bytes(content)
        with pytest.raises(Mnv3cError, match=path.name):
            load("mobilenet_v3_small", weights=str(path))
