"""What lowering a graph for the neon path keeps at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mnv3c.codegen.program import Constant, Options, Region
from mnv3c.ir.graph import Graph, Tensor
from mnv3c.paths.common.knobs import K
from mnv3c.paths.common.regions import external
from mnv3c.paths.neon.dialect import Dialect
from mnv3c.paths.neon.epilogue import Epilogue
from mnv3c.paths.neon.pack import Strided, stored_offsets
from mnv3c.paths.neon.windows import SLACK


@dataclass(frozen=True, eq=False)
class Context:
    """The graph and the names of its tensors' regions.

    Attributes:
        offsets: tensor to the zero points that its producer's constants hold; filled while lowering.
        used: node to the values of the knobs that were asked for; likewise.
    """

    graph: Graph
    regions: Mapping[str, str]
    options: Options
    dialect: Dialect
    offsets: dict[str, Strided] = field(default_factory=dict)
    used: dict[str, dict[str, int | str]] = field(default_factory=dict)

    def knob(self, node: str, name: str, default: K) -> K:
        """The value that the schedule of ``node`` gives a knob, else ``default``."""
        value = self.options.schedules.get(node, {}).get(name, default)
        self.used.setdefault(node, {})[name] = value
        return value  # type: ignore[return-value]

    def remember_offsets(self, tensor: str, constant: Constant, e: Epilogue) -> None:
        stored = stored_offsets(constant, e.zero_points) if e.zero_points is not None else None
        if stored is not None:
            self.offsets[tensor] = stored

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensor(name)

    def pointer(self, name: str, *, const: bool = True) -> str:
        """C expression of a typed pointer to a tensor's first element."""
        ctype = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}[self.tensor(name).dtype]
        return f"({'const ' if const else ''}{ctype} *)R_{self.regions[name]}"

    def row(self, name: str, row: str, *, const: bool = True) -> str:
        """C expression of a typed pointer to row ``row`` of a tensor."""
        _, width, channels = self.tensor(name).shape
        return f"{self.pointer(name, const=const)} + {row} * {width * channels}"

    def in_arena(self, name: str) -> bool:
        return external(self.graph, name) is None


def regions_of(context: Context) -> tuple[Region, ...]:
    """A region for each tensor, with slack for whole-vector reads where the memory is ours."""
    result = []
    for t in context.graph.tensors.values():
        outside = external(context.graph, t.name)
        size = t.bytes if outside else t.bytes + SLACK
        result.append(Region(context.regions[t.name], size, align=16, external=outside))
    return tuple(result)
