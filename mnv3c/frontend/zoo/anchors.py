"""Anchors of SSDLite, as TensorFlow's object detection library places them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mnv3c.frontend.zoo.architecture import Detector


def anchors(d: Detector, maps: Sequence[tuple[int, int]]) -> np.ndarray:
    """float64 ``[N, 4]``: centre y and x, height and width as shares of the image.

    In the order of the maps (``(height, width)`` each), their rows, columns and the anchors of a pixel.
    Scales rise evenly from the first to the last map; beside the ratios every map has a square of the
    geometric mean of its scale and the next one's. The first map has a square of half its scale and the
    ratios 2 and 1/2 alone.
    """
    low, high = d.scales
    steps = [low + (high - low) * i / (len(maps) - 1) for i in range(len(maps))] + [1.0]
    rows = []
    for i, (height, width) in enumerate(maps):
        kinds = [(steps[i], r) for r in d.ratios] + [(math.sqrt(steps[i] * steps[i + 1]), 1.0)]
        if i == 0:
            kinds = [(low / 2, 1.0), (low, 2.0), (low, 0.5)]
        sides = np.asarray([(s / math.sqrt(r), s * math.sqrt(r)) for s, r in kinds])
        y, x = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        centres = np.stack([y, x], axis=-1).reshape(-1, 1, 2)
        each = np.broadcast_to(sides, (height * width, len(kinds), 2))
        rows.append(np.concatenate([np.broadcast_to(centres, each.shape), each], axis=2).reshape(-1, 4))
    return np.concatenate(rows)
