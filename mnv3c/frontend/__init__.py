"""From a MODEL argument (a zoo name or a file) to a verified float graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import zoo
from mnv3c.ir.count import count_classes
from mnv3c.ir.graph import Graph
from mnv3c.ir.verify import verify

Observe = Callable[[str, str], None]
_MODELS = (".onnx", ".tflite", ".pt2")
# Of files that look like models and are not.
_WEIGHTS = (".pt", ".pth", ".safetensors", ".npz")


def load(
    model: str,
    *,
    weights: str | None = None,
    width: float | None = None,
    resolution: int | None = None,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    padding: str | None = None,
    name: str | None = None,
    observe: Observe | None = None,
) -> Graph:
    """Make the float graph of a zoo model or a model file.

    ``graph.meta`` holds ``source`` (``zoo``, ``onnx``, ``tflite`` or ``torch``), ``random_weights``,
    ``classes``, ``input_layout`` (the model's own, ``NCHW`` or ``NHWC``; the graph is always
    ``(H, W, C)``), ``sha256`` of the file read, and ``input_affine``: ``{"scale": [C], "shift": [C]}`` with
    network input = raw · scale + shift, where raw is what the model's own input takes (RGB / 255 for the
    zoo).

    Args:
        model: a zoo name, such as ``mobilenet_v3_small_0.75_128``, or the path of a float ``.onnx``,
            ``.tflite`` or ``.pt2`` (``torch.export.save``) file.
        weights: zoo only; a ``.npz``, ``.pth`` or ``.safetensors`` state dict.
        width, resolution, classes: zoo only; channel multiplier, input size in pixels, number of logits.
        input_shape: files only; ``(3, H, W)`` or ``(1, 3, H, W)`` for inputs of dynamic shape.
        seed: zoo only; of the random weights used without ``weights``.
        padding: zoo only; ``torch`` or ``tf``.
        name: of the graph, a C identifier; made from ``model`` by default.
        observe: sees (pass name, TVMScript) after each Relax pass.

    Raises:
        Mnv3cError: bad use or bad input, with the place.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Mnv3cError(f"{name!r} is not a C identifier", "name")
    path = Path(model)
    zoo_options = {
        "weights": weights,
        "width": width,
        "resolution": resolution,
        "classes": classes,
        "padding": padding,
    }
    if path.suffix.lower() in _MODELS or path.exists():
        for option, value in zoo_options.items():
            if value is not None:
                raise Mnv3cError("only zoo models have this option; the file says it all", option)
        return _load_file(path, input_shape, name, observe)
    zoo_model = zoo.parse(model, width=width, resolution=resolution, classes=classes)
    if input_shape is not None:
        raise Mnv3cError("zoo models take a resolution instead", "input_shape")
    graph_name = name or _identifier(model)

    def lower_zoo(module: Any, meta: dict[str, object]) -> Graph:
        return _lower(module, graph_name, meta, observe)

    file = Path(weights) if weights is not None else None
    return verify(zoo.load(zoo_model, lower_zoo, weights=file, padding=padding, seed=seed))


def _load_file(
    path: Path, input_shape: tuple[int, ...] | None, name: str | None, observe: Observe | None
) -> Graph:
    if path.is_dir():
        raise Mnv3cError("is a folder; a model file or a name that `mnv3c zoo` lists is wanted", str(path))
    if not path.is_file():
        raise Mnv3cError("no such file", str(path))
    graph_name = name or _identifier(path.stem)
    if path.suffix.lower() == ".tflite":
        from mnv3c.frontend.tflite import load_float

        return load_float(path, graph_name)

    def lower(module: Any, meta: dict[str, object]) -> Graph:
        return _lower(module, graph_name, meta, observe)

    if path.suffix.lower() == ".pt2":
        from mnv3c.frontend import torch_export

        return torch_export.load(path, input_shape, lower)
    if path.suffix.lower() in _WEIGHTS:
        raise Mnv3cError(
            "holds weights without a network: name a zoo network and give this with --weights, or write a"
            " .pt2 file with torch.export.save",
            str(path),
        )
    from mnv3c.frontend import onnx

    return onnx.load(path, input_shape, lower)


def _identifier(stem: str) -> str:
    """A C identifier made of a file name."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_").lower() or "model"
    return f"model_{text}" if text[0].isdigit() else text


def _lower(module: Any, name: str, meta: dict[str, object], observe: Observe | None) -> Graph:
    # TVM takes two seconds to import: only who loads a model pays for it.
    from mnv3c.frontend.lower import lower
    from mnv3c.frontend.relax_passes import run_passes

    module = run_passes(module, observe)
    attributes = module["main"].attrs
    scale = [float(s) for s in attributes["mnv3c.input_scale"]]
    shift = [float(s) for s in attributes["mnv3c.input_shift"]]
    facts: dict[str, object] = {
        "random_weights": False,
        "input_affine": {"scale": scale, "shift": shift},
        "input_layout": str(attributes["mnv3c.input_layout"]),
    }
    meta = facts | meta
    graph = verify(lower(module, name, meta))
    return graph.replace(meta={"classes": count_classes(graph)} | dict(graph.meta))
