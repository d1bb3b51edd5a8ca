"""The generated C as people see it, compared with ``golden/`` (``--update-golden`` rewrites that)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.codegen.library import build_library
from tests.codegen.networks import classifier, doors

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("make", [classifier, doors])
def test_golden(make: type, request: pytest.FixtureRequest) -> None:
    graph = make()
    library = build_library(graph, ["ref"], summary="a small network for the golden test")
    for name, content in library.files.items():
        if isinstance(content, bytes) or not name.endswith((".c", ".h", ".txt", ".md")):
            continue
        golden = GOLDEN / graph.name / name
        if request.config.getoption("--update-golden"):
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(content)
        assert golden.is_file(), (
            f"{golden} is missing: run pytest with --update-golden and read the difference"
        )
        assert content == golden.read_text(), (
            f"{name} changed: read the difference, then run with --update-golden"
        )
