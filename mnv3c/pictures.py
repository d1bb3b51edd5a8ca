"""Answers as pictures: masks of classes, and boxes, beside the image that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mnv3c.errors import Mnv3cError

# A class's share of its colour in a painted mask; the rest is the picture.
_OPACITY = 0.6
_BOX_WIDTH = 2


def colours(count: int) -> np.ndarray:
    """uint8 ``[count, 3]``: colours that neighbours in number do not share.

    Hues a golden angle apart, in two brightnesses.
    """
    hue = np.arange(count) * 0.618034 % 1.0
    distance = np.abs((hue[:, None] * 6 + np.asarray([0, 4, 2])) % 6 - 3) - 1
    value = np.where(np.arange(count) % 2, 170, 255)[:, None]
    return np.rint(np.clip(distance, 0, 1) * value).astype(np.uint8)


def paint(image: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """The image with a colour over every class's pixels.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        classes: integers ``(h, w)`` below ``count``; enlarged to the image by repetition.
    """
    height, width = image.shape[:2]
    rows = np.arange(height) * classes.shape[0] // height
    columns = np.arange(width) * classes.shape[1] // width
    flat = colours(count)[classes[rows][:, columns]]
    return np.rint(image * (1 - _OPACITY) + flat * _OPACITY).astype(np.uint8)


def draw_boxes(image: np.ndarray, boxes: np.ndarray, titles: Sequence[str], kinds: np.ndarray) -> np.ndarray:
    """The image with titled boxes.

    Args:
        boxes: ``(N, 4)``, top, left, bottom and right as shares of height and width.
        titles: one a box.
        kinds: class numbers, one a box, which choose the colours.
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    palette = colours(int(kinds.max()) + 1 if len(kinds) else 1)
    for (top, left, bottom, right), title, kind in zip(boxes, titles, kinds, strict=True):
        colour = tuple(int(c) for c in palette[int(kind)])
        x = sorted((float(np.clip(left, 0, 1)) * width, float(np.clip(right, 0, 1)) * width))
        y = sorted((float(np.clip(top, 0, 1)) * height, float(np.clip(bottom, 0, 1)) * height))
        draw.rectangle((x[0], y[0], x[1], y[1]), outline=colour, width=_BOX_WIDTH)
        draw.text((x[0] + 2 * _BOX_WIDTH, y[0] + _BOX_WIDTH), title, fill=colour)
    return np.asarray(picture)


def save_beside(image: np.ndarray, answer: np.ndarray, path: Path) -> None:
    """Write both pictures, of one size, side by side as PNG.

    Raises:
        Mnv3cError: the file cannot be written.
    """
    try:
        Image.fromarray(np.concatenate([image, answer], axis=1)).save(path, "PNG")
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(path)) from None
