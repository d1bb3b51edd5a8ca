"""Networks of PyTorch and torchvision in ``.pt2`` files, and the comparison with PyTorch's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv3c.frontend import load
from mnv3c.ir.graph import Graph
from mnv3c.reference.floating import run

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install mnv3c[torch]")


def settled(network: Any, shape: tuple[int, ...]) -> Any:
    """The network for inference, with statistics of random batches: fresh ones scale signals to nothing."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0.0, 0.3)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, *shape[1:]))
    return network.eval()


def save(network: Any, path: Path, shape: tuple[int, ...], **options: Any) -> Path:
    """Export and write a network; its input is of ``shape``."""
    program = torch.export.export(network, (torch.randn(shape),), **options)
    torch.export.save(program, path)
    return path


def check(network: Any, path: Path, shape: tuple[int, ...]) -> Graph:
    """Export a network, import the file, and compare every output with PyTorch's."""
    graph = load(str(save(network, path, shape)))
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x))
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    affine: Any = graph.meta["input_affine"]
    network_input = x[0].transpose(1, 2, 0) * np.float32(affine["scale"]) + np.float32(affine["shift"])
    got = run(graph, {graph.inputs[0]: network_input})
    assert len(graph.outputs) == len(wanted)
    for name, tensor in zip(graph.outputs, wanted, strict=True):
        want = tensor.numpy()
        want = want[0].transpose(1, 2, 0) if want.ndim == 4 else want
        want = want[0][:, :, None] if want.ndim == 3 and want.shape[0] == 1 else want  # class numbers
        want = want.reshape(1, 1, -1) if want.ndim == 2 else want
        assert got[name].shape == want.shape
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
    return graph


def torchvision_network(name: str, **options: Any) -> Any:
    """A network of torchvision, which is written independently of ours, with random weights."""
    # Builds of torchvision for other builds of torch lack compiled operators, which none of these uses.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    pytest.importorskip("torchvision", reason="needs torchvision", exc_type=ImportError)
    from torchvision import models

    return getattr(models, name)(weights=None, **options)
