"""``benchmarks/accuracy.py``: verdicts and drawn lines of text, without running the whole table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

_FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(_FOLDER))
    from accuracy_table import rows, text_lines

    yield {"rows": rows, "text": text_lines}
    for name in [n for n in sys.modules if n.partition(".")[0] == "accuracy_table"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (80.0, False, "aim"),
        (79.0, False, "must"),
        (78.9, False, "missed"),
        (79.5, True, "must"),
        (81.0, True, "missed"),
        (10.0, True, "aim"),
    ],
)
def test_verdict(table: dict[str, Any], value: float, at_most: bool, verdict: str) -> None:
    must, aim = (80.5, 79.0) if at_most else (79.0, 80.0)
    check = table["rows"].Check("top-1", value, must, aim, at_most)
    assert check.verdict == verdict
    row = table["rows"].Row("net", "float", 80.0, value, (check,), None, 500, 1.0)
    assert table["rows"].holds([row]) == (verdict != "missed")


def test_table_shows_every_check(table: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    checks = [table["rows"].Check(f"quantity {i}", 99.0, 97.0, 99.5) for i in range(2)]
    row = table["rows"].Row("net", "LiteRT", 71.4, 71.2, tuple(checks), 12.0, 500, 3.0, "a remark")
    table["rows"].show([row], as_json=False)
    shown = capsys.readouterr().out
    assert "quantity 0" in shown and "quantity 1" in shown and "net: a remark" in shown


def test_lines_are_drawn_from_the_seed(table: dict[str, Any]) -> None:
    text = table["text"]
    example = text._example()
    first, again, other = (text.lines(example, 6, seed) for seed in (3, 3, 4))
    assert first.shape == (12, 48, 192, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Ink and paper differ, and so do a line and the same line turned.
    assert (first.reshape(12, -1).std(axis=1) > 5).all()
    assert not any(np.array_equal(a, b) for a, b in zip(first[::2], first[1::2], strict=True))


@pytest.mark.slow
def test_text_direction(table: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    row = table["text"].measure(10)
    assert row.images == 20 and row.checks[0].value >= 95
