"""What a float network's weights tell of how it was trained."""

from __future__ import annotations

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.quant.state import Options

# A network trained with simulated quantisation, one scale a tensor, has learnt to live with exactly
# that: extremes cut off and small values lost. Finer scales change what it computes, for the worse.
AS_TRAINED = Options(
    ranges="minmax", vector_margin=1.0, per_channel=False, rounding="nearest", bias_correction=False
)
_LEVELS = 256
_ENOUGH = 4 * _LEVELS  # weights a tensor needs before few distinct values mean anything


def on_one_grid(weight: np.ndarray) -> bool:
    """Whether all weights of a tensor are whole multiples of one step, at most 255 steps apart."""
    values = np.unique(weight.astype(np.float64))
    if len(values) > _LEVELS or len(values) < 3:
        return False
    step = np.diff(values).min()
    multiples = (values - values[0]) / step
    # float32 products of step and integer leave a little.
    return bool(multiples[-1] < _LEVELS and np.abs(multiples - np.rint(multiples)).max() < 0.01)


def trained_quantized_by_tensor(graph: Graph) -> bool:
    """Whether every large convolution's weights lie on one 8-bit grid of their own.

    Weights trained in float do not, nor those that were quantised with one scale a channel.
    """
    large = [n.weight for n in graph.nodes if isinstance(n, f.Conv2d) and n.weight.size >= _ENOUGH]
    return bool(large) and all(on_one_grid(w) for w in large)
