"""Archives of torch.export are looked at before PyTorch loads them; none of this needs PyTorch."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.frontend.quantized import is_quantized

NODE = {"target": "torch.ops.aten.relu.default", "name": "relu", "inputs": [], "outputs": [], "metadata": {}}
TENSOR = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": {}}


def archive(
    path: Path,
    nodes: list[Any] | None = None,
    tensors: dict[str, Any] | None = None,
    more: dict[str, bytes] | None = None,
    **program: Any,
) -> str:
    """An archive of an empty program, but for what is given."""
    graph = {"graph_module": {"graph": {"nodes": nodes or []}}, "range_constraints": {}, **program}
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": json.dumps(graph).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": tensors or {}}).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        **(more or {}),
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(f"net/{name}", content)
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(Mnv3cError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and path in message
    return message


def test_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = archive(tmp_path / "net.pt2", [NODE], {"w": TENSOR})
    assert refused(path).endswith("needs PyTorch, which is not installed; pip install mnv3c[torch]")


@pytest.mark.parametrize("target", ["torch.hub.load", "torch.ops.aten", "_operator.add", "#run", "os.system"])
def test_functions_are_not_called(target: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "net.pt2", [{**NODE, "target": target}])
    assert f"node 'relu': operator {target} is not supported" in refused(path)


@pytest.mark.parametrize(
    "entry", ["data/aotinductor/model/net.so", "data/constants/custom_obj_0", "data/weights/model.pt", "x.py"]
)
def test_code_is_not_loaded(entry: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "net.pt2", more={entry: b"code"})
    assert "more than a network of tensors" in refused(path) and entry in refused(path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    message = refused(archive(tmp_path / "net.pt2", tensors={"w": {**TENSOR, "use_pickle": True}}))
    assert "tensor 'w' is pickled" in message
    assert "'w' is no tensor" in refused(
        archive(tmp_path / "net.pt2", tensors={"w": {**TENSOR, "path_name": "../../etc/passwd"}})
    )


def test_dynamic_shapes(tmp_path: Path) -> None:
    path = archive(tmp_path / "net.pt2", [NODE], range_constraints={"s0": {"min_val": 1, "max_val": 9}})
    assert "has dynamic shapes" in refused(path)
    symbolic = {**NODE, "outputs": [{"as_expr": {"expr_str": "__import__('os').abort()"}}]}
    assert "has dynamic shapes" in refused(archive(tmp_path / "net.pt2", [symbolic]))


def test_control_flow(tmp_path: Path) -> None:
    branch = {**NODE, "inputs": [{"arg": {"as_graph": {}}}]}
    assert "control flow" in refused(archive(tmp_path / "net.pt2", [branch]))


def test_damaged(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    whole = Path(archive(path, [NODE])).read_bytes()
    for content in (
        b"",
        b"nothing of that kind",
        whole[: len(whole) // 2],
        whole.replace(b"relu", b"rely", 1),
    ):
        path.write_bytes(content)
        assert "truncated or corrupted" in refused(str(path))
    for broken in (b"{", b"[]", b'{"graph_module": 3}'):
        message = refused(archive(path, more={"models/model.json": broken}))
        assert "models/model.json: is damaged" in message


def test_other_formats_of_pytorch(tmp_path: Path) -> None:
    for name, says in (
        ("serialized_exported_program.json", "old format"),
        ("net/data.pkl", "pickled weights or a TorchScript module"),
    ):
        path = tmp_path / "net.pt2"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"")
        assert says in refused(str(path))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_are_no_model(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"anything")
    assert "--weights" in refused(str(path))


def test_a_quantised_program_has_no_float_graph(tmp_path: Path) -> None:
    target = "torch.ops.quantized_decomposed.quantize_per_tensor.default"
    path = archive(tmp_path / "net.pt2", [{**NODE, "target": target}])
    assert "a quantised program has no float graph" in refused(path)
    assert is_quantized(path) and not is_quantized(archive(tmp_path / "float.pt2", [NODE]))


def test_no_such_file(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "net.pt2")).endswith("no such file")
