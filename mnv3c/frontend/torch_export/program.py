"""Exported programs as PyTorch reads them: decomposed, checked, with one image as the only input."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of quantised programs

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.torch_export.archive import Contents
from mnv3c.frontend.torch_export.operators import check_program


@dataclass(frozen=True, eq=False)
class Opened:
    """A program in core operators.

    Attributes:
        input_shape: ``[1, C, H, W]``.
        outputs: names of the nodes that are returned.
    """

    program: torch.export.ExportedProgram
    input_name: str
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...]

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """Every weight, by the name that the nodes know it by."""
        tensors = {**self.program.state_dict, **self.program.constants}
        kinds = torch.export.graph_signature.InputKind
        specs = [s for s in self.program.graph_signature.input_specs if s.kind is not kinds.USER_INPUT]
        return {s.arg.name: tensors[s.target].detach().numpy() for s in specs if s.target in tensors}


def open_program(path: Path, contents: Contents) -> Opened:
    """Load a file that ``archive`` has looked at.

    Raises:
        Mnv3cError: PyTorch cannot read it, or the program is not supported.
    """
    place = str(path)
    with quiet():
        program = _load(path, contents)
        name, shape = _input(program, place)
        _check_tensors(program, place)
        try:
            program = program.run_decompositions()
        except Exception as error:
            raise Mnv3cError(f"PyTorch cannot decompose it: {last_line(error)}", place) from None
    check_program(program, place)
    return Opened(program, name, shape, tuple(program.graph_signature.user_outputs))


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


def last_line(error: Exception) -> str:
    """What an exception of PyTorch or TVM says in the end."""
    return ((str(error).strip() or type(error).__name__).splitlines()[-1])[:200]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
