"""Whole networks of the zoo on the neon path, against the NumPy reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.frontend import load
from mnv3c.quant.quantizer import quantize
from tests.paths.harness import check_graph


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        "mobilenet_v3_small_0.35_96",
        "mobilenet_v3_large_0.75_128",
        "mobilenet_v3_small_minimalistic_1.25_160",
    ],
)
def test_zoo(model: str, tmp_path: Path) -> None:
    library = check_graph(quantize(load(model)), "neon", tmp_path / "library", runs=1)
    assert not library.manifest["programs"]["neon"]["notes"]
