"""An exported program to Relax, with the names of PyTorch's operators kept for messages."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import Context, rewrite, shape_of
from mnv3c.frontend.torch_export.archive import Contents
from mnv3c.frontend.torch_export.operators import check_program, describe


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
    with _quiet():
        program = _load(path, contents)
        name, shape = _input(program, place)
        _check_tensors(program, place)
        try:
            program = program.run_decompositions()
        except Exception as error:
            raise Mnv3cError(f"PyTorch cannot decompose it: {_last_line(error)}", place) from None
        check_program(program, place)
        importer = ExportedProgramImporter()
        try:
            module = importer.from_exported_program(program, False, True, False, None)
        except Exception as error:
            raise Mnv3cError(f"TVM cannot import it: {_last_line(error)}", place) from None
    _check_shapes(program, importer.env, place)
    nodes = tuple(describe(n) for n in program.graph.nodes)
    return Imported(_named(module, program, importer.env), name, shape, nodes)


def _load(path: Path, contents: Contents) -> torch.export.ExportedProgram:
    place = str(path)
    if contents.samples:
        try:
            torch.load(io.BytesIO(contents.samples), weights_only=True)
        except Exception:
            # torch.export.load would go on and unpickle whatever it is.
            raise Mnv3cError("sample inputs are no plain tensors", place) from None
    try:
        return torch.export.load(path)
    except Exception:
        versions = f"saved by PyTorch {contents.torch_version}, this is {torch.__version__}"
        raise Mnv3cError(f"PyTorch cannot read the program ({versions})", place) from None


def _input(program: torch.export.ExportedProgram, place: str) -> tuple[str, tuple[int, ...]]:
    kinds = torch.export.graph_signature.InputKind
    names = [s.arg.name for s in program.graph_signature.input_specs if s.kind is kinds.USER_INPUT]
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise Mnv3cError(f"one input is supported, the program has {len(names)} ({listed})", place)
    value = next(n.meta.get("val") for n in program.graph.nodes if n.name == names[0])
    where = f"{place}: input {names[0]!r}"
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
        raise Mnv3cError(
            f"must be a float32 tensor, is {getattr(value, 'dtype', type(value).__name__)}", where
        )
    shape = tuple(int(d) for d in value.shape)
    if len(shape) != 4:
        raise Mnv3cError(f"shape {list(shape)} is not that of one image, [1, channels, height, width]", where)
    if shape[0] != 1:
        raise Mnv3cError(f"a batch of {shape[0]} is not supported, only of 1", where)
    return names[0], shape


def _check_tensors(program: torch.export.ExportedProgram, place: str) -> None:
    """Every weight is float32, in memory, and finite."""
    for name, tensor in (*program.state_dict.items(), *program.constants.items()):
        where = f"{place}: tensor {name!r}"
        if not isinstance(tensor, torch.Tensor):
            raise Mnv3cError("is no tensor", where)
        if tensor.dtype in (torch.float16, torch.bfloat16, torch.float64) or tensor.is_quantized:
            raise Mnv3cError(f"is {tensor.dtype}; call float() on the network before exporting it", where)
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise Mnv3cError("is sparse, or not in the memory of the CPU", where)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Mnv3cError("holds values that are not finite", where)


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


def _last_line(error: Exception) -> str:
    return ((str(error).strip() or type(error).__name__).splitlines()[-1])[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch and TVM log and print what they raise as well."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
