"""The zoo: MobileNetV3 and its family, built as Relax modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.zoo import random_weights
from mnv3c.frontend.zoo.anchors import anchors
from mnv3c.frontend.zoo.architecture import Architecture
from mnv3c.frontend.zoo.layers import layer_shapes
from mnv3c.frontend.zoo.names import ZooModel, parse, unknown
from mnv3c.frontend.zoo.table import ARCHITECTURES, scale_width
from mnv3c.frontend.zoo.weights import load_weights
from mnv3c.ir.detection import Settings, with_detection
from mnv3c.ir.graph import Graph

__all__ = ["ARCHITECTURES", "ZooModel", "load", "parse", "unknown"]

PADDINGS = ("torch", "tf")


def load(
    model: ZooModel,
    lower: Callable[[Any, dict[str, object]], Graph],
    *,
    weights: Path | None = None,
    padding: str | None = None,
    seed: int = 0,
) -> Graph:
    """Build a zoo network and lower it.

    Args:
        model: which network.
        lower: runs the passes on a Relax module and makes the float graph, given its meta.
        weights: a state dict; without it, random weights from ``seed``.
        padding: ``torch`` (symmetric) or ``tf`` (SAME). By default what the weights were trained with
            (see ``load_weights``); symmetric for random ones.
        seed: of the random weights.

    Raises:
        Mnv3cError: unknown padding, or weights that do not fit.
    """
    if padding not in (None, *PADDINGS):
        raise Mnv3cError(f"{padding!r} is none of {', '.join(PADDINGS)}", "padding")
    from mnv3c.frontend.zoo.build import build  # imports TVM: seconds, and not needed to list the zoo

    architecture = scale_width(ARCHITECTURES[model.architecture], model.width)
    meta: dict[str, object] = {
        "source": "zoo",
        "model": model.name,
        "architecture": model.architecture,
        "width": model.width,
        "resolution": model.resolution,
        "random_weights": weights is None,
    }
    if weights is not None:
        loaded = load_weights(weights, architecture, model.classes, padding)
        module = build(loaded.architecture, loaded.weights, model.size, loaded.padding)
        facts = {"padding": loaded.padding, "naming": loaded.naming, "input_affine": loaded.input_affine}
        facts |= {"weights": weights.name, "sha256": loaded.sha256}
        return _with_detection(lower(module, meta | facts), loaded.architecture)
    padding = padding or "torch"
    classes = model.classes or architecture.classes
    drawn = random_weights.draw(layer_shapes(architecture, classes), seed)
    meta |= {"padding": padding, "seed": seed, "input_affine": {"scale": [2.0] * 3, "shift": [-1.0] * 3}}
    graph = lower(build(architecture, drawn, model.size, padding), meta)
    if architecture.segmenter is None:
        return _with_detection(random_weights.normalize(graph, seed), architecture)
    # Maps of a fixed size are in such a graph: statistics are taken on one for small images.
    small = lower(build(architecture, drawn, (random_weights.SIZE,) * 2, padding), meta)
    return random_weights.transfer(random_weights.normalize(small, seed), graph)


def _with_detection(graph: Graph, architecture: Architecture) -> Graph:
    """A detector's graph with what its end needs in ``meta`` (``mnv3c.ir.detection``)."""
    if architecture.detector is None:
        return graph
    boxes = graph.outputs[: len(graph.outputs) // 2]
    places = anchors(architecture.detector, [graph.tensor(b).shape[:2] for b in boxes])
    return with_detection(graph, places, Settings())
