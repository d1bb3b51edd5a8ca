"""The integer graph while it grows, with what every tensor holds on the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mnv3c.ir.graph import Graph, Node, Shape, Tensor
from mnv3c.quant import batched
from mnv3c.quant.groups import Group
from mnv3c.quant.ranges import Affine, Sample, sample

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the quantiser may do.

    Attributes:
        ranges: ``mse``, ``kl`` or ``minmax`` (see ``ranges.clip_range``).
        vector_margin: what ranges of vectors are widened by, of which calibration sees few values.
        per_channel: give channels their own scale wherever that is free or pays.
        residual_share: how far scales follow the channels' ranges in tensors that residual adds tie
            together: 0 not at all, 1 fully, between them the geometric mean.
        rounding: ``nearest``, or ``reconstruct``: chosen so that the layer's outputs on the
            calibration images change least.
        bias_correction: cancel the mean error of every output channel.
    """

    ranges: str = "mse"
    vector_margin: float = 1.25
    per_channel: bool = True
    residual_share: float = 0.5
    rounding: str = "reconstruct"
    bias_correction: bool = True


@dataclass(eq=False)
class State:
    """Mutable while ``quantize`` walks a float graph.

    Attributes:
        source: the float graph.
        exact: float tensor to its float32 batch ``(N, H, W, C)``.
        stored: float tensor to the batch of integers that stands for it.
        affine: float tensor to how those integers stand for reals.
        nodes, tensors: of the integer graph.
        profiles: float tensor to the proportions of its channels' scales, where adds prescribe them.
        wide: float tensors that are stored in 16 bits (``prepare.wide_tensors``).
        raised: float tensors inside the network that are stored in 16 bits (``mixed.candidates``).
        importance: float tensor to what squared errors of its channels do to the outputs, if known.
        noise: float tensor to the signal-to-noise ratio of its integers, in decibels.
    """

    source: Graph
    options: Options
    rng: np.random.Generator
    exact: dict[str, np.ndarray] = field(default_factory=dict)
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    affine: dict[str, Affine] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, np.ndarray] = field(default_factory=dict)
    importance: dict[str, np.ndarray] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()
    raised: frozenset[str] = frozenset()

    def emit(self, *nodes: Node) -> None:
        self.nodes += nodes

    def declare(self, name: str, shape: Shape, dtype: str, affine: Affine | None) -> str:
        """Add a tensor of the integer graph; returns its name."""
        self.tensors[name] = Tensor(name, shape, dtype, affine.quant if affine else None)
        return name

    def store(self, name: str, affine: Affine, dtype: str = "int8") -> str:
        """Declare the integer tensor of a float tensor of the same name."""
        self.affine[name] = affine
        return self.declare(name, self.source.tensor(name).shape, dtype, affine)

    def reach(self, name: str) -> int:
        """The largest magnitude of a stored tensor's integers."""
        return 32768 if self.tensors[name].dtype == "int16" else 128

    def seen(self, name: str) -> Sample:
        return sample(name, self.exact[name], self.rng)

    def execute(self, nodes: list[Node], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run new integer nodes on the calibration batch; returns every tensor they wrote."""
        graph = Graph("part", tuple(nodes), self.tensors, tuple(inputs), (nodes[-1].output,))
        values = dict(inputs)
        for node in nodes:
            values[node.output] = batched.integer_node(graph, node, [values[i] for i in node.inputs])
        return values

    def measure(self, name: str) -> None:
        """Record the signal-to-noise ratio of a stored tensor, on every fourth image."""
        exact = self.exact[name][::4]
        error = self.affine[name].dequantize(self.stored[name][::4]) - exact
        self.noise[name] = signal_to_noise(exact, error)

    def release(self, group: Group, last_use: Mapping[str, int], position: int) -> None:
        """Forget batches that no later group reads."""
        for name in group.inputs:
            if last_use[name] <= position and name not in self.source.outputs:
                self.exact.pop(name, None)
                self.stored.pop(name, None)


def signal_to_noise(signal: np.ndarray, error: np.ndarray) -> float:
    """Ratio of powers in decibels; at most 200, which stands for no error."""
    square = (np.square(x, dtype=np.float64).mean() for x in (signal, error))
    return decibels(*map(float, square))


def decibels(power: float, noise: float) -> float:
    """Ratio of two powers in decibels; at most 200, which stands for no noise."""
    return float(min(200.0, 10 * np.log10(max(power, 1e-300) / max(noise, power * 1e-20, 1e-300))))
