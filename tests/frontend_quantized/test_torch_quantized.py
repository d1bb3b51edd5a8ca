"""Quantised PyTorch programs (PT2E) against PyTorch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import quantized
from mnv3c.ir import int_ops as q
from mnv3c.reference import integer
from tests.frontend.torch_models import save, settled, torch, torchvision_network

pytest.importorskip("torch.ao.quantization.fx._decomposed")
nn, functional, ops = torch.nn, torch.nn.functional, torch.ops.quantized_decomposed
SHAPE = (1, 3, 14, 14)


class Stored(nn.Module):
    """What quantisers insert where a tensor is stored."""

    def __init__(self, scale: float, zero_point: int, dtype: Any = torch.int8, limits: Any = None) -> None:
        super().__init__()
        low, high = limits or ((-128, 127) if dtype is torch.int8 else (0, 255))
        self.rest = (scale, zero_point, low, high, dtype)

    def forward(self, x: Any) -> Any:
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *self.rest), *self.rest)


class Weight(nn.Module):
    """int8 weights with a scale an output channel."""

    def __init__(self, *shape: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("w", torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator))
        self.register_buffer("scale", torch.rand(shape[0], generator=generator) * 0.004 + 0.002)
        self.register_buffer("zero", torch.zeros(shape[0], dtype=torch.int64))
        self.bias = nn.Parameter(torch.randn(shape[0], generator=generator))

    def forward(self) -> tuple[Any, Any]:
        return ops.dequantize_per_channel(self.w, self.scale, self.zero, 0, -127, 127, torch.int8), self.bias


class Network(nn.Module):
    """A stem with h-swish, a depthwise convolution with SE, a residual add, and a classifier."""

    def __init__(self, dtype: Any = torch.int8, limits: Any = None) -> None:
        super().__init__()
        shift = 0 if dtype is torch.int8 else 128
        layers = {"stem": (8, 3, 3, 3), "deep": (8, 1, 3, 3), "gate": (8, 8, 1, 1), "out": (5, 8)}
        self.weights = nn.ModuleDict({n: Weight(*s, seed=i) for i, (n, s) in enumerate(layers.items())})
        scales = {
            "input": (0.02, 3), "stem": (0.06, -4), "swish": (0.04, -110), "deep": (0.03, -128),
            "pool": (0.03, -128), "gate": (0.03, 5), "gated": (0.02, -128), "sum": (0.05, -100),
            "mean": (0.05, -100), "vector": (0.05, -100), "out": (0.02, 7),
        }  # fmt: skip
        self.stored = nn.ModuleDict({n: Stored(s, z + shift, dtype, limits) for n, (s, z) in scales.items()})
        self.gates = Stored(1 / 255, -128 + shift, dtype, limits)

    def forward(self, x: Any) -> Any:
        w, stored = self.weights, self.stored
        x = stored["input"](x)
        x = stored["stem"](functional.conv2d(x, *w["stem"](), stride=2, padding=1))
        x = stored["swish"](functional.hardswish(x))
        y = stored["deep"](functional.conv2d(x, *w["deep"](), padding=1, groups=8).relu_())
        s = stored["pool"](functional.adaptive_avg_pool2d(y, 1))
        s = stored["gate"](functional.conv2d(s, *w["gate"]()))
        y = stored["gated"](self.gates(functional.hardsigmoid(s)) * y)
        y = stored["mean"](stored["sum"](x + y).mean((2, 3)))
        y = stored["vector"](functional.dropout(y, training=self.training))
        return stored["out"](functional.linear(y, *w["out"]()))


def load(network: Any, folder: Path) -> Any:
    return quantized.load(save(network.eval(), folder / "net.pt2", SHAPE))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_network_equals_pytorch(dtype: Any, tmp_path: Path) -> None:
    network = Network(dtype)
    graph = load(network, tmp_path)
    assert graph.meta["source"] == "torch" and graph.meta["classes"] == 5
    assert [type(n) for n in graph].count(q.QConv) == 4
    equal = 0
    for seed in range(8):
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            want = network(x).numpy().ravel()
        got = integer.run(graph, {graph.inputs[0]: x[0].permute(1, 2, 0).numpy()})[graph.outputs[0]].ravel()
        # PyTorch adds up in float32, so a result may fall on the other side of a half.
        assert np.abs(got - want).max() <= 0.02 * 1.01
        equal += int((got == want).sum())
    assert equal >= 36, "of 40"


@pytest.mark.slow
def test_calibrated_network_of_torchvision(tmp_path: Path) -> None:
    """Quantised by torchao: every layer is taken, and the rounded float network is near."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="needs torchao")
    quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer", reason="needs torchao")
    shape = (1, 3, 64, 64)
    network = settled(torchvision_network("mobilenet_v3_small", num_classes=20), shape)
    plan = quantizers.XNNPACKQuantizer().set_global(
        quantizers.get_symmetric_quantization_config(is_per_channel=True)
    )
    prepared = pt2e.prepare_pt2e(torch.export.export(network, (torch.randn(shape),)).module(), plan)
    for seed in range(4):
        prepared(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    graph = quantized.load(save(pt2e.convert_pt2e(prepared), tmp_path / "net.pt2", shape))
    assert [type(n) for n in graph].count(q.QConv) == 54
    assert all(n.weight.dtype == np.int8 for n in graph if isinstance(n, q.QConv))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = network(x).numpy().ravel()
    got = integer.run(graph, {graph.inputs[0]: x[0].permute(1, 2, 0).numpy()})[graph.outputs[0]].ravel()
    assert np.corrcoef(got, want)[0, 1] > 0.7


class Soft(nn.Module):
    """A softmax over the channels, then a convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = Weight(7, 3, 1, 1, seed=0), Weight(5, 7, 1, 1, seed=1)
        scales = {"input": (0.02, 3), "logits": (0.05, 9), "share": (1 / 256, -128), "out": (0.02, 1)}
        self.stored = nn.ModuleDict({name: Stored(*s) for name, s in scales.items()})
        self.dim = dim

    def forward(self, x: Any) -> Any:
        stored = self.stored
        x = stored["logits"](functional.conv2d(stored["input"](x), *self.first()))
        x = stored["share"](functional.softmax(x, self.dim))
        return x, stored["out"](functional.conv2d(x, *self.second()))


@pytest.mark.parametrize("dim", [1, -3])
def test_softmax_inside_equals_pytorch(dim: int, tmp_path: Path) -> None:
    network = Soft(dim)
    graph = load(network, tmp_path)
    assert sum(isinstance(n, q.QSoftmax) for n in graph) == 1
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = network(x)[0][0].permute(1, 2, 0).numpy()
    got = integer.run(graph, {graph.inputs[0]: x[0].permute(1, 2, 0).numpy()})[graph.outputs[0]]
    # A logit that falls on the other side of a half moves its share by a twentieth.
    assert np.abs(got - want).max() <= 0.05 and (got == want).mean() > 0.99


def test_softmax_over_the_width(tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError, match="runs over axis 3, not over the channels"):
        load(Soft(-1), tmp_path)


class Bad(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.stored, self.weight, self.function = Stored(0.02, 3), Weight(4, 3, 3, 3, seed=0), function

    def forward(self, x: Any) -> Any:
        y = functional.conv2d(self.stored(x), *self.weight())
        return self.function(self, y)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda m, y: y, "is not quantised"),
        (lambda m, y: Stored(0.1, 0, torch.int8, (-127, 127))(y), "uses -127 to 127 alone"),
        (lambda m, y: Stored(0.1, 0, torch.int16, (-32768, 32767))(y), "quantises to torch.int16"),
        (lambda m, y: m.stored(functional.max_pool2d(m.stored(y), 2)), "(aten.max_pool2d.default): is not"),
        (lambda m, y: m.stored(m.stored(y).permute(0, 1, 3, 2)), "(aten.permute.default): is supported for"),
        (lambda m, y: Stored(0.0, 0)(y), "not positive"),
    ],
)
def test_bad_programs_are_named(function: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError) as caught:
        load(Bad(function), tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
