"""Options that say which network is meant, from the command line to the graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mnv3c.cli import main


def test_padding_reaches_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "mobilenet_v3_small_0.35_64", "--padding", "tf", "--json"])
    assert json.loads(capsys.readouterr().out)["meta"]["padding"] == "tf"


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_a_file_has_its_own_padding(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"whatever it is")
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(tmp_path / name), "-o", str(tmp_path / "out"), "--padding", "tf"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
