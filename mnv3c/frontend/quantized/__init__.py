"""Models that come quantised: TFLite (uint8, int8), ONNX QDQ and PyTorch PT2E, to the integer graph.

The model's own scales are kept, and what it rounds between two operators is rounded here, so that the
graph computes what the model's runtime computes. The importers of the formats are in
``mnv3c.frontend.tflite`` and ``mnv3c.frontend.qdq``; what they share is in this package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph

_MARK = b"TFL3"


def load(path: Path | str, *, round_weights: bool = False, round_twice: bool | None = None) -> Graph:
    """The integer graph of a quantised model file.

    ``meta`` has ``source`` (``tflite``, ``onnx`` or ``torch``), ``file`` (its name), ``sha256`` of it,
    ``format``, ``input_layout`` (the file's own; the graph is ``(H, W, C)``), ``classes`` and ``notes``. A
    uint8 or int8 input stays one, and so does an output; the graph between is int8. A softmax at the end is
    left out (a note says so).

    Args:
        round_weights: make all weights int8, which every kernel is fast for, by rounding the few
            channels of asymmetric uint8 weights that need nine bits. Without it the graph is exact.
        round_twice: TFLite alone. LiteRT has two engines that do not agree bit for bit: XNNPACK, its
            default, requantises with one rounding, as our fast kernels do; TFLite's built-in kernels
            with two. ``True`` follows the latter, ``False`` the former, ``None`` whichever runs the model
            (a convolution whose scales XNNPACK refuses makes the difference).

    Raises:
        Mnv3cError: the file is damaged, or holds something that is not supported; names the place.
    """
    if _is_tflite(path):
        from mnv3c.frontend import tflite

        graph = tflite.load(path, round_weights=round_weights, round_twice=round_twice)
    elif Path(path).suffix == ".pt2":
        from mnv3c.frontend import torch_export

        graph = torch_export.load_quantized(Path(path), round_weights=round_weights)
    else:
        from mnv3c.frontend import qdq

        graph = qdq.load(path, round_weights=round_weights)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return graph.replace(meta={**graph.meta, "sha256": digest})


def is_quantized(path: Path | str) -> bool:
    """Whether ``path`` is a model that ``load`` is for: TFLite, ONNX or PyTorch, and not a float one.

    Raises:
        Mnv3cError: the file cannot be read, or is damaged.
    """
    if _is_tflite(path):
        from mnv3c.frontend import tflite

        return tflite.is_quantized(path)
    if Path(path).suffix == ".pt2":
        from mnv3c.frontend import torch_export

        return torch_export.is_quantized(Path(path))
    if Path(path).suffix != ".onnx":
        return False
    from mnv3c.frontend import qdq

    return qdq.is_quantized(path)


def _is_tflite(path: Path | str) -> bool:
    try:
        with Path(path).open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror or error}", str(path)) from None
    return head[4:8] == _MARK or Path(path).suffix == ".tflite"
