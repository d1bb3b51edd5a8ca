"""Damaged ``.pt2`` archives are refused with one line or loaded; PyTorch's own exceptions never come out."""

from __future__ import annotations

import collections
import copy
import io
import json
import random
import traceback
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mnv3c import api
from mnv3c.errors import Mnv3cError

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install mnv3c[torch]")

FILES = 100
TABLES = ("model.json", "model_weights_config.json")
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, -(2**63), 1e300, "", "x", "relu", "p_0_weight", [], {}, [[]],
    {"as_int": -3}, {"as_tensor": {"name": "nothing"}}, "torch.ops.aten.add.Tensor",
    "torch.ops.aten.nothing.default",
)  # fmt: skip


class Quantized(torch.nn.Module):
    """A convolution, a pool and a linear layer in PT2E's form."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.quantization.fx._decomposed  # registers the operators

        shapes = {"conv": (4, 3, 3, 3), "linear": (5, 4)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.randint(-127, 128, shape, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", torch.full((shape[0],), 0.01))
            self.register_buffer(f"{name}_zero", torch.zeros(shape[0], dtype=torch.int64))

    def weight(self, name: str) -> Any:
        parts = [getattr(self, name + part) for part in ("", "_scale", "_zero")]
        return torch.ops.quantized_decomposed.dequantize_per_channel(*parts, 0, -127, 127, torch.int8)

    def forward(self, x: Any) -> Any:
        def stored(value: Any) -> Any:
            rest = (0.05, 3, -128, 127, torch.int8)
            q = torch.ops.quantized_decomposed.quantize_per_tensor(value, *rest)
            return torch.ops.quantized_decomposed.dequantize_per_tensor(q, *rest)

        x = stored(torch.nn.functional.conv2d(stored(x), self.weight("conv"), stride=2, padding=1))
        x = stored(stored(torch.nn.functional.hardswish(x)).mean((2, 3)))
        return stored(torch.nn.functional.linear(x, self.weight("linear")))


def seed_archive(quantized: bool) -> bytes:
    layers = (
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.Hardswish(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    )
    network = Quantized() if quantized else torch.nn.Sequential(*layers).eval()
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.randn(1, 3, 8, 8),)), file)
    return file.getvalue()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested JSON."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            waiting.append(here[key])
    return found


def mutant(seed: bytes, index: int) -> bytes:
    """An archive with checksums that are right and one or two changes in what it says."""
    rng = random.Random(index)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(changed, "w") as new:
        wanted = TABLES[rng.random() < 0.3]
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith(wanted):
                value = json.loads(content)
                for _ in range(rng.randint(1, 2)):
                    container, key = rng.choice(places(value))
                    change = rng.random()
                    if change < 0.3 and isinstance(container, dict):
                        del container[key]
                    elif change < 0.5:
                        other, other_key = rng.choice(places(value))
                        container[key] = copy.deepcopy(other[other_key])
                    else:
                        container[key] = rng.choice(STRANGE)
                content = json.dumps(value).encode()
            new.writestr(info.filename, content)
    return changed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True])
def test_damaged_archives(quantized: bool, tmp_path: Path) -> None:
    seed, path = seed_archive(quantized), tmp_path / "net.pt2"
    results: collections.Counter[str] = collections.Counter()
    for index in range(FILES):
        path.write_bytes(mutant(seed, index))
        try:
            if api.comes_quantized(path):
                api.load_quantized(path)
            else:
                api.load(path)
            results["loaded"] += 1
        except Mnv3cError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            results["refused"] += 1
        except Exception:
            pytest.fail(f"archive {index}: {traceback.format_exc()}")
    assert results["loaded"] > FILES // 20 and results["refused"] > FILES // 4, results
