"""The table of operators in docs/models.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mnv3c.frontend.onnx_model import detection as onnx_detection
from mnv3c.frontend.onnx_model.rewrite import HANDLERS
from mnv3c.frontend.tflite import detection as tflite_detection
from mnv3c.frontend.tflite import operators, spatial
from mnv3c.ir import int_ops as q
from mnv3c.paths import registry
from mnv3c.reference import integer

ROOT = Path(__file__).parents[2]
COLUMNS = ("onnx", "tflite", "torch", "integer", "vector", "portable")


def table() -> dict[str, dict[str, list[str]]]:
    """Names in every cell, by operator and column."""
    text = (ROOT / "docs" / "models.md").read_text()
    rows = re.search(r"\| operator \| ONNX .*\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert rows is not None
    found = {}
    for line in rows.group(1).splitlines():
        operator, *cells = (c.strip() for c in line.strip("|").split("|"))
        assert len(cells) == len(COLUMNS), line
        found[operator] = {k: re.findall(r"`(\w+)`", c) for k, c in zip(COLUMNS, cells, strict=True)}
    return found


def column(name: str) -> set[str]:
    return {n for row in table().values() for n in row[name]}


def test_front_ends_take_what_the_table_says() -> None:
    # Shape arithmetic and arithmetic of constants is evaluated, and what an identity does needs no row.
    hidden = {"Cast", "Constant", "Dropout", "Gather", "Identity", "Neg", "Pow", "Reciprocal"}
    hidden |= {"Shape", "Sqrt"}
    assert column("onnx") == set(HANDLERS) - hidden | {onnx_detection.NAME}
    custom = tflite_detection.NAME.removeprefix("CUSTOM ")
    assert column("tflite") == {*operators._RULES, *spatial.RULES, custom} - {"QUANTIZE", "DEQUANTIZE"}


def test_pytorch_s_operators() -> None:
    pytest.importorskip("torch")
    from mnv3c.frontend.torch_export.operators import OPERATORS

    taken = {n.partition(".")[0] for n in OPERATORS}
    hidden = {
        "clone",
        "alias",
        "_assert_tensor_metadata",
        "_to_copy",
        "quantized_decomposed",
        "clamp_min",
        "clamp_max",
    }
    assert column("torch") == taken - hidden


def test_every_integer_operator_has_a_row_and_a_reference() -> None:
    named = column("integer")
    doors = {"Quantize", "Dequantize", "FlipSign"}
    assert named | doors == {kind.__name__ for kind in integer.SUPPORTED}
    assert all(hasattr(q, name) for name in named)


def test_vector_and_portable_kernels() -> None:
    """Operators that only portable C computes are named nowhere in the sources of the other paths."""
    assert {"dotprod", "i8mm", "neon", "ref"} <= set(registry.KNOWN)
    paths = ROOT / "mnv3c" / "paths"
    code = {
        path: "\n".join(f.read_text() for folder in (path, "common") for f in (paths / folder).glob("*.py"))
        for path in ("dotprod", "neon")
    }
    for path, text in code.items():
        used = set(re.findall(r"\bq\.(\w+)", text))
        assert column("vector") <= used, path
        only_portable = column("portable") - column("vector") - {"QMean", "QConstant"}
        assert not only_portable & used, path
