"""Graph structure shared by the float and the integer IR.

Everything is immutable. A tensor is ``(height, width, channels)``; the batch is always one and is
not written down. A vector (a pooled tensor, logits) is ``(1, 1, C)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

Shape = tuple[int, int, int]
DTYPE_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "int32": 4, "float32": 4}


@dataclass(frozen=True)
class Quant:
    """Affine quantisation: ``real = scale * (q - zero_point)``.

    Attributes:
        scale: one value, or one a channel (last axis).
        zero_point: one value, or one a channel; in the range of the tensor's dtype.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...] = (0,)

    @property
    def per_channel(self) -> bool:
        return len(self.scale) > 1 or len(self.zero_point) > 1


@dataclass(frozen=True)
class Tensor:
    """A value that flows along an edge of a graph.

    Attributes:
        name: unique in its graph.
        shape: ``(height, width, channels)``.
        dtype: a key of ``DTYPE_BYTES``; always ``float32`` in a float graph.
        quant: how integers stand for reals; ``None`` for float tensors and raw accumulators.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    quant: Quant | None = None

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def bytes(self) -> int:
        """Bytes without any padding of a layout."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Node:
    """Base of all operators: reads ``inputs``, writes ``outputs`` (names of tensors)."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def output(self) -> str:
        """The first output, which for most operators is the only one."""
        return self.outputs[0]


N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class Graph:
    """A network: nodes in execution order, and every tensor by name.

    Attributes:
        name: a C identifier; prefixes every generated symbol.
        nodes: topologically sorted.
        tensors: name to tensor, for the inputs and every node output.
        inputs, outputs: names of tensors, in the order of the public API.
        meta: free facts for people and the manifest (source, normalisation, labels offset, ...);
            values are JSON-serialisable.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def producer(self, tensor: str) -> Node | None:
        """The node that writes ``tensor``; ``None`` for a graph input."""
        return next((n for n in self.nodes if tensor in n.outputs), None)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if tensor in n.inputs)

    def sole_consumer(self, tensor: str, kind: type[N]) -> N | None:
        """The consumer of ``tensor`` if it is the only one, is a ``kind`` and the tensor stays inside."""
        users = self.consumers(tensor)
        if tensor in self.outputs or len(users) != 1 or users[0].inputs.count(tensor) != 1:
            return None
        return users[0] if isinstance(users[0], kind) else None

    def replace(self, **changes: object) -> Graph:
        """A copy with fields changed; tensors that no node or output uses any more are dropped."""
        new = dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        live = set(new.inputs) | set(new.outputs) | {t for n in new.nodes for t in (*n.inputs, *n.outputs)}
        return dataclasses.replace(new, tensors={k: v for k, v in new.tensors.items() if k in live})

    def map_nodes(self, fn: Callable[[Node], Node]) -> Graph:
        return self.replace(nodes=tuple(fn(n) for n in self.nodes))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)
