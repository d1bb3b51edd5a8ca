"""An exported program to Relax, with the names of PyTorch's operators kept for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import Context, rewrite, shape_of
from mnv3c.frontend.torch_export.archive import Contents
from mnv3c.frontend.torch_export.operators import describe
from mnv3c.frontend.torch_export.program import last_line, open_program, quiet


@dataclass(frozen=True, eq=False)
class Imported:
    """A module and where its parts come from.

    Attributes:
        module: whose ``main`` has one input and one or more outputs; its variables are named after nodes.
        nodes: what messages call a node, by its number.
    """

    module: Any
    input_name: str
    input_shape: tuple[int, ...]
    nodes: tuple[str, ...]

    def place(self, text: str) -> str:
        """The node whose variable a message's place names; ``text`` where there is none."""
        found = re.search(r"\bnode(\d+)_", text)
        return self.nodes[int(found[1])] if found else text


def import_program(path: Path, contents: Contents) -> Imported:
    """Load a file that ``archive`` has looked at, and import it.

    Raises:
        Mnv3cError: PyTorch cannot read it, or the program is not supported.
    """
    place = str(path)
    opened = open_program(path, contents)
    program = opened.program
    importer = ExportedProgramImporter()
    with quiet():
        try:
            module = importer.from_exported_program(program, False, True, False, None)
        except Exception as error:
            raise Mnv3cError(f"TVM cannot import it: {last_line(error)}", place) from None
    _check_shapes(program, importer.env, place)
    nodes = tuple(describe(n) for n in program.graph.nodes)
    return Imported(_named(module, program, importer.env), opened.input_name, opened.input_shape, nodes)


def _check_shapes(program: torch.export.ExportedProgram, variables: Mapping[Any, Any], place: str) -> None:
    """Each imported tensor has the shape that PyTorch says."""
    for node in program.graph.nodes:
        value, variable = node.meta.get("val"), variables.get(node)
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            continue
        if not isinstance(variable, relax.Var):
            continue
        got, want = shape_of(variable), tuple(int(d) for d in value.shape)
        if got != want:
            raise Mnv3cError(f"TVM imports it with shape {list(got)}", f"{place}: {describe(node)}")


def _named(module: Any, program: torch.export.ExportedProgram, variables: Mapping[Any, Any]) -> Any:
    """The module with each variable called after the node that it is part of, ``node17_conv2d``."""
    last = {
        variables[n].name: f"node{i}_{n.name}"
        for i, n in enumerate(program.graph.nodes)
        if isinstance(variables.get(n), relax.Var)
    }
    names: dict[str, str] = {}
    pending: list[str] = []
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            pending.append(binding.var.name)
            if binding.var.name in last:
                names |= dict.fromkeys(pending, last[binding.var.name])
                pending = []

    def rename(context: Context, call: Any) -> Any | None:
        context.current = names.get(context.current, context.current)
        # The importer writes the two results of a maximum pool as a tuple.
        is_field = isinstance(call, relax.TupleGetItem) and isinstance(call.tuple_value, relax.Tuple)
        return call.tuple_value.fields[call.index] if is_field else None

    return rewrite(module, rename)
