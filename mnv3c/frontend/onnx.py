"""Float ONNX models to Relax: our own checks and canonical form first, then TVM's importer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from tvm.relax.frontend.onnx import from_onnx

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.lower import EmptyNetwork
from mnv3c.frontend.onnx_model.detection import split
from mnv3c.frontend.onnx_model.read import read_model
from mnv3c.frontend.onnx_model.rewrite import Canonical, canonical
from mnv3c.ir.detection import with_detection, with_softmax
from mnv3c.ir.graph import Graph


def load(
    path: Path, input_shape: tuple[int, ...] | None, lower: Callable[[Any, dict[str, object]], Graph]
) -> Graph:
    """Read a model file, import it into Relax and hand it to ``lower`` with facts for the graph's meta.

    Args:
        path: of the file.
        input_shape: for inputs of dynamic shape, with or without the batch.
        lower: runs the passes on a Relax module and makes the float graph.

    Raises:
        Mnv3cError: a file that is not there, is damaged, or holds what is not supported; names the node.
    """
    model, digest = read_model(path)
    try:
        head, detection = split(model, input_shape)
        rewritten = canonical(head, input_shape)
    except Mnv3cError as error:
        raise Mnv3cError(error.message, f"{path}: {error.place}") from None
    meta: dict[str, object] = {
        "source": "onnx",
        "file": path.name,
        "sha256": digest,
        "input_name": rewritten.input_name,
        "input_shape": list(rewritten.input_shape),
    }
    if detection is not None:
        meta["notes"] = list(detection.notes)
    try:
        graph = lower(_import(rewritten.model()), meta)
    except Exception as error:
        raise _blame(error, rewritten, lower, path) from None
    if detection is None:
        return graph
    if not detection.settings.logits:
        graph = with_softmax(graph, graph.outputs[detection.boxes :], detection.classes)
    return with_detection(graph, detection.anchors, detection.settings)


def _import(model: onnx.ModelProto) -> Any:
    # The importer prints what it could not convert and warns about what the checker finds.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_onnx(model, keep_params_in_input=False)


def _blame(
    error: Exception, rewritten: Canonical, lower: Callable[[Any, dict[str, object]], Any], path: Path
) -> Mnv3cError:
    """The error with the node it comes from: the last of the shortest prefix that fails.

    Relax keeps no names of nodes, so the network is cut in half until the node is found.
    """
    nodes = rewritten.output.nodes
    works, fails = 0, len(nodes)
    while fails - works > 1:
        middle = (works + fails) // 2
        try:
            lower(_import(rewritten.prefix(middle)), {})
            works = middle
        except EmptyNetwork:
            works = middle
        except Exception as shorter:
            fails, error = middle, shorter
    place = f"{path}: {nodes[fails - 1].name}" if nodes else str(path)
    if isinstance(error, Mnv3cError):
        return Mnv3cError(error.message, place)
    text = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return Mnv3cError(f"TVM cannot import it: {text[:200]}", place)
