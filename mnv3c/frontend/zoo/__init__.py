"""The zoo: MobileNetV3 Large and Small with their minimalistic variants, built as Relax modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.zoo import random_weights
from mnv3c.frontend.zoo.build import build
from mnv3c.frontend.zoo.layers import layer_shapes
from mnv3c.frontend.zoo.names import ZooModel, parse, unknown
from mnv3c.frontend.zoo.table import ARCHITECTURES, scale_width
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
        padding: ``torch`` (symmetric; the default) or ``tf`` (SAME), whichever the weights were trained with.
        seed: of the random weights.

    Raises:
        Mnv3cError: unknown padding, or weights that do not fit.
    """
    padding = padding or "torch"
    if padding not in PADDINGS:
        raise Mnv3cError(f"{padding!r} is none of {', '.join(PADDINGS)}", "padding")
    architecture = scale_width(ARCHITECTURES[model.architecture], model.width)
    shapes = layer_shapes(architecture, model.classes)
    meta: dict[str, object] = {
        "source": "zoo",
        "model": model.identifier,
        "architecture": model.architecture,
        "width": model.width,
        "resolution": model.resolution,
        "classes": model.classes,
        "padding": padding,
        "random_weights": weights is None,
    }
    assert weights is None
    module = build(architecture, random_weights.draw(shapes, seed), model.resolution, padding)
    meta |= {"seed": seed, "input_affine": {"scale": [2.0] * 3, "shift": [-1.0] * 3}}
    return random_weights.normalize(lower(module, meta), seed)
