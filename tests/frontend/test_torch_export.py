"""PyTorch networks through torch.export: our float graph gives PyTorch's answers; bad files get one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnv3c
from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.quant import quantize
from tests.frontend.torch_models import check, save, settled, torch, torchvision_network

nn, functional = torch.nn, torch.nn.functional
SHAPE = (1, 3, 16, 24)


def conv_norm(inputs: int, outputs: int, kernel: int, act: Any, **options: Any) -> Any:
    options = {"padding": kernel // 2, **options}
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), act()
    )


class Squeeze(nn.Module):
    """SE with hard sigmoid as published code writes it: ``relu6(x + 3) / 6``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Any) -> Any:
        s = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * (functional.relu6(self.expand(s) + 3.0) / 6.0)


class Padded(nn.Module):
    """TensorFlow's padding, every activation, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, nn.Hardswish, stride=2, padding=0)
        self.expand = conv_norm(8, 16, 1, nn.ReLU6)
        self.depthwise = conv_norm(16, 16, 5, nn.ReLU, groups=16)
        self.squeeze, self.project = Squeeze(16), conv_norm(16, 8, 1, nn.Identity)
        self.gate, self.swish = nn.Hardsigmoid(), nn.SiLU()
        self.head = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(12, 5))

    def forward(self, x: Any) -> Any:
        x = self.stem(functional.pad(x * 2.0 - 1.0, (0, 1, 0, 1)))
        x = x + self.project(self.squeeze(self.depthwise(self.expand(x))))
        features = x * self.gate(x)
        pooled = functional.adaptive_avg_pool2d(self.swish(features), 1).flatten(1)
        return functional.softmax(self.head(pooled), dim=1), features


class PaddedPool(nn.Module):
    """Padding in front of a maximum, and at the end, where no convolution takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, nn.Identity, stride=2)

    def forward(self, x: Any) -> Any:
        x = functional.max_pool2d(functional.pad(self.stem(x), (0, 1, 2, 1)), 3, 2)
        return functional.pad(x, (1, 0, 0, 1))


def test_padding_without_a_convolution_behind_it(tmp_path: Path) -> None:
    graph = check(settled(PaddedPool(), SHAPE), tmp_path / "pool.pt2", SHAPE)
    assert [n.pad for n in graph if isinstance(n, f.Spread)] == [(2, 0, 1, 1), (0, 1, 1, 0)]


def test_activations_padding_and_two_outputs(tmp_path: Path) -> None:
    graph = check(settled(Padded(), SHAPE), tmp_path / "padded.pt2", SHAPE)
    convs = [n for n in graph if isinstance(n, f.Conv2d)]
    assert len(convs) == 8, "batch norm and padding are inside the convolutions"
    assert convs[0].pad == (0, 0, 1, 1)
    assert graph.meta["input_affine"] == {"scale": [2.0] * 3, "shift": [-1.0] * 3}
    assert graph.meta["source"] == "torch" and graph.meta["input_name"] == "x"
    assert len(str(graph.meta["sha256"])) == 64
    assert isinstance(graph.producer(graph.outputs[0]), f.Softmax)


def test_pools_and_norms_without_parameters(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, dilation=2, padding=(1, 2)),
        nn.BatchNorm2d(8, affine=False),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Hardtanh(-0.5, 2.0),
        nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    graph = check(settled(network, SHAPE), tmp_path / "pools.pt2", SHAPE)
    assert [n.kind for n in graph if isinstance(n, f.Pool)] == ["max", "average"]


class Segmentation(nn.Module):
    """What heads of segmentation networks do with pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(3, 4, 1)
        self.up, self.last = nn.ConvTranspose2d(6, 6, 2, stride=2), nn.Conv2d(16, 3, 1)

    def forward(self, x: Any) -> Any:
        low, high = self.low(x).relu(), self.high(x)
        size = high.shape[-2:]
        parts = [functional.interpolate(low, size=size, mode="bilinear", align_corners=False), self.up(low)]
        parts += [functional.interpolate(low, scale_factor=2)[:, 1:3], high[:, 2:]]
        scores = self.last(torch.cat(parts, 1))[:, :, 1:-1]
        grown = functional.interpolate(scores, size=(31, 40), mode="bilinear", align_corners=True)
        return grown, scores.argmax(1)


def test_segmentation(tmp_path: Path) -> None:
    graph = check(settled(Segmentation(), SHAPE), tmp_path / "segmentation.pt2", SHAPE)
    kinds = [type(n) for n in graph]
    assert kinds.count(f.Resize) == 3 and kinds.count(f.Concat) == 1 and kinds.count(f.Slice) == 3
    assert f.TransposedConv2d in kinds and f.ArgMax in kinds


class Attention(nn.Module):
    """Spatial and channel attention, learned positions, a factor: everything broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pixel, self.channel = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 1, 1), nn.Conv2d(6, 6, 1)
        self.positions = nn.Parameter(torch.randn(1, 6, 14, 22))
        self.columns = nn.Parameter(torch.randn(22))

    def forward(self, x: Any) -> Any:
        x = self.stem(x) + self.positions
        pooled = x.mean((2, 3), keepdim=True)
        x = torch.sigmoid(self.pixel(x)) * x + self.channel(pooled)
        return self.columns * x + self.pixel(pooled).mul(2.0).sub(self.columns)


class Scaled(nn.Module):
    """A vector without height and width times channels-last data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        vector = self.linear(x.mean((2, 3)))
        return (x.permute(0, 2, 3, 1) * vector).permute(0, 3, 1, 2) + vector[:, :, None, None]


class Soft(nn.Module):
    """Shares of channels at every pixel, of channels for all pixels, and softmax of a map as an output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shares, self.linear = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = x * functional.softmax(self.shares(x), dim=1)
        vector = functional.softmax(self.linear(x.mean((2, 3))), dim=-1)
        x = x * vector[:, :, None, None]
        return x, functional.softmax(x, 1)


def test_softmax_inside(tmp_path: Path) -> None:
    graph = check(settled(Soft(), SHAPE), tmp_path / "soft.pt2", SHAPE)
    assert [type(n) for n in graph].count(f.Softmax) == 3
    graph = quantize(graph)
    assert [type(n) for n in graph].count(q.QSoftmax) == 2 and len(graph.meta["notes"]) == 1


def test_softmax_over_the_width(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softmax(3), nn.Conv2d(6, 6, 3))
    with pytest.raises(Mnv3cError, match="softmax must run over the channels"):
        load(save(network.eval(), tmp_path / "soft.pt2", SHAPE))


def test_broadcasting(tmp_path: Path) -> None:
    graph = check(settled(Attention(), SHAPE), tmp_path / "attention.pt2", SHAPE)
    kinds = [type(n) for n in graph]
    assert kinds.count(f.Constant) == 3 and kinds.count(f.Multiply) == 2 and kinds.count(f.Add) >= 4
    graph = check(Scaled().eval(), tmp_path / "scaled.pt2", SHAPE)
    assert [type(n) for n in graph][-2:] == [f.Multiply, f.Add]


def test_decomposed_program(tmp_path: Path) -> None:
    """What was decomposed before it was saved is the same network."""
    network = settled(Padded(), SHAPE)
    program = torch.export.export(network, (torch.randn(SHAPE),)).run_decompositions()
    torch.export.save(program, tmp_path / "core.pt2")
    graph = load(str(tmp_path / "core.pt2"))
    assert [type(n) for n in graph] == [
        type(n) for n in load(str(save(network, tmp_path / "whole.pt2", SHAPE)))
    ]


@pytest.mark.slow
def test_torchvision_small(tmp_path: Path) -> None:
    network = settled(torchvision_network("mobilenet_v3_small", num_classes=20), (1, 3, 64, 64))
    graph = check(network, tmp_path / "small.pt2", (1, 3, 64, 64))
    assert sum(isinstance(n, f.Conv2d) for n in graph) == 54
    assert sum(isinstance(n, f.Activation) and n.kind == "hard_swish" for n in graph) == 19


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v2", "mnasnet1_0"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    shape = (1, 3, 96, 128)
    graph = check(settled(torchvision_network(name), shape), tmp_path / f"{name}.pt2", shape)
    assert graph.meta["classes"] == 1000


@pytest.mark.slow
def test_zoo_weights_of_torchvision_are_the_exported_network(tmp_path: Path) -> None:
    """The same weights by both roads, as a state dict of the zoo and as an exported program."""
    network = settled(torchvision_network("mobilenet_v3_small"), (1, 3, 64, 64))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    zoo = load("mobilenet_v3_small", weights=str(tmp_path / "weights.pth"), resolution=64)
    exported = load(str(save(network, tmp_path / "small.pt2", (1, 3, 64, 64))))
    ours, theirs = ([n for n in g if isinstance(n, f.Conv2d)] for g in (zoo, exported))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.weight, b.weight, rtol=1e-5, atol=1e-7)
        assert (a.pad, a.stride) == (b.pad, b.stride)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm64", "armv7"])
def test_integer_library_is_bit_equal_on_every_path(target: str, tmp_path: Path) -> None:
    shape = (1, 3, 64, 64)
    network = settled(torchvision_network("mobilenet_v3_small", num_classes=20), shape)
    path = save(network, tmp_path / "small.pt2", shape)
    mnv3c.compile(path, target, tmp_path / "library")
    report = mnv3c.verify(tmp_path / "library")
    assert report.ok, report


class Calls(nn.Module):
    """A convolution and a function behind it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Any) -> Any:
        return self.function(self.first(x))


def refused(network: Any, folder: Path, shape: tuple[int, ...] = SHAPE, **options: Any) -> str:
    path = save(network, folder / "bad.pt2", shape, **options)
    with pytest.raises(Mnv3cError) as caught:
        load(str(path))
    message = str(caught.value)
    assert "\n" not in message and "bad.pt2" in message
    return message


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU()),
            "(aten.leaky_relu.default) in 1: is not supported",
        ),
        (Calls(lambda y: torch.add(y, y.relu(), alpha=2)), "(aten.add.Tensor): alpha of 2"),
        (Calls(lambda y: functional.pad(y, (1, 1, 1, 1), value=1.0)), "(aten.pad.default): only padding"),
        (Calls(lambda y: functional.adaptive_avg_pool2d(y, 2)), "only adaptive pooling to 1x1"),
        (Calls(lambda y: functional.max_pool2d(y, 3, return_indices=True)[1]), "only the first result"),
        (Calls(lambda y: functional.avg_pool2d(y, 3, divisor_override=7)), "divisor_override of 7"),
        (Calls(lambda y: y.double()), "dtype of torch.float64"),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3)), "in 0: groups and dilation are not supported"),
        (Calls(lambda y: functional.interpolate(y, size=(20, 50))), "whole factors alone are supported"),
        (Calls(lambda y: y[:, ::2]), "(aten.slice.Tensor): steps of [2]"),
        (Calls(lambda y: y.permute(0, 3, 1, 2)), "(aten.permute.default)"),
    ],
)
def test_unsupported_operator_is_named(network: Any, says: str, tmp_path: Path) -> None:
    assert says in refused(network.eval(), tmp_path)


def test_training_mode(tmp_path: Path) -> None:
    assert "call eval()" in refused(conv_norm(3, 4, 3, nn.ReLU).train(), tmp_path)


def test_inputs(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 3).eval()
    assert "batch of 2" in refused(network, tmp_path, (2, 3, 8, 8))
    assert "not that of one image" in refused(network, tmp_path, (3, 8, 8))
    wide = {"input": {3: torch.export.Dim("width", min=4, max=64)}}
    assert "has dynamic shapes" in refused(network, tmp_path, dynamic_shapes=wide)
    path = save(network, tmp_path / "net.pt2", SHAPE)
    with pytest.raises(Mnv3cError, match=r"--shape: a \.pt2 file says it itself"):
        load(str(path), input_shape=(3, 16, 24))


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 3).eval()
    network.weight.data[0, 0, 0, 0] = np.inf
    assert "'weight': holds values that are not finite" in refused(network, tmp_path)


def test_other_number_formats(tmp_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.ones(3, 1, 1, dtype=torch.float16))

        def forward(self, x: Any) -> Any:
            return x * self.factor

    assert "tensor 'factor': is torch.float16; call float()" in refused(Half(), tmp_path)


def test_two_inputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a + b

    program = torch.export.export(Two(), (torch.randn(SHAPE), torch.randn(SHAPE)))
    torch.export.save(program, tmp_path / "two.pt2")
    with pytest.raises(Mnv3cError, match=r"one input is supported, the program has 2 \(a, b\)"):
        load(str(tmp_path / "two.pt2"))
