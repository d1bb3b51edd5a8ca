"""Float ONNX models to Relax."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx
from tvm.relax.frontend.onnx import from_onnx

from mnv3c.errors import Mnv3cError


def read(path: Path, input_shape: tuple[int, ...] | None = None) -> tuple[Any, dict[str, object]]:
    """Read a model file.

    Returns:
        The Relax module and the facts about the file for the graph's meta.

    Raises:
        Mnv3cError: a file that is not there, is damaged, or holds what is not supported.
    """
    try:
        data = path.read_bytes()
        model = onnx.load_from_string(data)
    except Exception as error:
        raise Mnv3cError(f"cannot read: {error}", str(path)) from None
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1]:
            del tensor.dims[:]
    module = from_onnx(model, keep_params_in_input=False)
    return module, {"source": "onnx", "sha256": hashlib.sha256(data).hexdigest()}
