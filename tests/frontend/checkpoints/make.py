"""Makes the checkpoints beside this file. Needs PyTorch, which the tests do not."""

import collections
import os
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


class Hostile:
    """Runs a command when a careless reader unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 3",)


torch.manual_seed(0)
weight = torch.randn(3, 2, 3, 3)
state = collections.OrderedDict()
state["a.weight"] = weight
state["a.bias"] = torch.arange(3.0).half()
state["view"] = weight[:, :1].permute(0, 2, 3, 1)  # strided, and shares the storage
state["n.num_batches_tracked"] = torch.tensor(7)
state["parameter"] = torch.nn.Parameter(torch.linspace(-2, 2, 5))
state["bfloat16"] = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
state["double"] = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
torch.save(state, HERE / "zip.pth")
torch.save(state, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
wrapped = {"state_dict": {"module." + k: v for k, v in state.items()}, "epoch": 3}
torch.save(wrapped, HERE / "wrapped.pth")
torch.save({"x": Hostile(), "w": weight}, HERE / "hostile.pth")
torch.save(torch.nn.Conv2d(1, 1, 1), HERE / "module.pth")
np.savez(HERE / "expected.npz", **{k: v.detach().float().numpy() for k, v in state.items()})
