"""The README's demonstration, as a user runs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None,
    reason="needs: pip install --no-deps rapidocr-onnxruntime==1.2.3",
)
def test_text_direction_is_right_both_ways(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "text_direction.py"), "--output", str(tmp_path / "lib")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-equal") >= 2
    assert "text turned by   0 degrees" in done.stdout and "says 0 (" in done.stdout
    assert "2 of 2 answers are right" in done.stdout
