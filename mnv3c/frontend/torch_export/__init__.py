"""PyTorch networks: an ``ExportedProgram`` that ``torch.export.save`` wrote (``.pt2``), to Relax.

PyTorch is optional (``pip install mnv3c[torch]``). What it loads from a ``.pt2`` file may be code, so the
archive is looked at first (``archive``), by us and without PyTorch; then the operators are checked
(``operators``) and TVM imports them (``importer``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.torch_export.archive import check_archive
from mnv3c.ir.graph import Graph

T = TypeVar("T")


def load(path: Path, input_shape: tuple[int, ...] | None, lower: Callable[[Any, dict[str, object]], T]) -> T:
    """Read a ``.pt2`` file, import it into Relax and hand it to ``lower`` with facts for the graph's meta.

    Args:
        path: of the file.
        input_shape: must be ``None``: an exported program has static shapes.
        lower: runs the passes on a Relax module and makes the float graph.

    Raises:
        Mnv3cError: PyTorch is not installed; or the file is damaged, or holds what is not supported: names
            the module of the network and the operator.
    """
    if input_shape is not None:
        raise Mnv3cError("a .pt2 file says it itself; export the network for this shape", "--shape")
    contents = check_archive(path)
    if contents.quantized:
        raise Mnv3cError("a quantised program has no float graph", str(path))
    _require_torch(path)
    from mnv3c.frontend.torch_export.importer import import_program

    imported = import_program(path, contents)
    meta: dict[str, object] = {
        "source": "torch",
        "file": path.name,
        "sha256": contents.sha256,
        "input_name": imported.input_name,
        "input_shape": list(imported.input_shape),
    }
    try:
        return lower(imported.module, meta)
    except Mnv3cError as error:
        raise Mnv3cError(error.message, f"{path}: {imported.place(error.place)}") from None


def load_quantized(path: Path, *, round_weights: bool = False) -> Graph:
    """The integer graph of a file for which ``is_quantized``; raises ``Mnv3cError`` as ``load``."""
    contents = check_archive(path)
    _require_torch(path)
    from mnv3c.frontend.torch_export import quantized

    return quantized.load(path, contents, round_weights=round_weights)


def is_quantized(path: Path) -> bool:
    """Whether the program quantises anything; raises ``Mnv3cError`` if the file is damaged."""
    return check_archive(path).quantized


def _require_torch(path: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Mnv3cError(
            "reading it needs PyTorch, which is not installed; pip install mnv3c[torch]", str(path)
        ) from None
