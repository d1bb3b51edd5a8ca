"""NumPy meaning of ``QDetect``: exact integers up to the last conversion to float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnv3c.ir import int_ops as q
from mnv3c.reference.arithmetic import I64

LOG2_E = 94548  # log2(e) in Q16
LARGEST = 1 << 24  # a side of 16 images


def detect(node: q.QDetect, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Boxes, scores, classes and count."""
    codes = [x.reshape(-1, 4) for x in inputs[: node.maps]]
    logits = [x.reshape(-1, node.classes) for x in inputs[node.maps :]]
    scores = np.concatenate([_in_sixteen_bits(x, s) for x, s in zip(logits, node.score_scales, strict=True)])
    corners = _decode(node, codes)
    found: list[tuple[int, int, int]] = []  # (score, anchor, class)
    if node.agnostic:
        best = np.concatenate([x[:, node.first_class :].argmax(axis=1) for x in logits]) + node.first_class
        found = _suppress(node, corners, scores[np.arange(len(scores)), best], best, node.most)
    else:
        for c in range(node.first_class, node.classes):
            one = _suppress(node, corners, scores[:, c], np.full(len(scores), c), node.most_a_class)
            # Stable: of equal scores the lower class stays first.
            found = sorted(found + one, key=lambda item: -item[0])[: node.most]
    return _outputs(node, corners, found)


def _in_sixteen_bits(q8: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """Stored integers less their zero point, times a multiplier, in 16 fewer bits."""
    product = (q8.astype(I64) - scale[0]) * scale[1]
    return np.clip((product + (1 << 15)) >> 16, -32768, 32767)


def _decode(node: q.QDetect, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Top, left, bottom, right in units of 2**-21, int64 ``[N, 4]``."""
    moved, sized = [], []
    for x, (zero_point, of_centre, of_side) in zip(codes, node.box_scales, strict=True):
        moved.append(_in_sixteen_bits(x[:, :2], (zero_point, of_centre)))
        sized.append(_in_sixteen_bits(x[:, 2:], (zero_point, of_side)))
    anchors = node.anchors.astype(I64)
    sides = anchors[:, 2:]
    centre = anchors[:, :2] + ((np.concatenate(moved) * sides + (1 << 13)) >> 14)
    side = np.minimum((exponential(node, np.concatenate(sized)) * sides + (1 << 15)) >> 16, LARGEST)
    return np.concatenate([2 * centre - side, 2 * centre + side], axis=1)


def exponential(node: q.QDetect, x: np.ndarray) -> np.ndarray:
    """``exp`` of units of 2**-12, in Q16."""
    power = (x * LOG2_E + (1 << 11)) >> 12  # of two, in Q16
    whole, at, rest = power >> 16, (power >> 8) & 255, power & 255
    table = np.asarray(node.exponential, I64)
    mantissa = table[at] + (((table[at + 1] - table[at]) * rest + 128) >> 8)
    return np.where(whole >= 0, mantissa << np.maximum(whole, 0), mantissa >> np.minimum(-whole, 62))


def _suppress(
    node: q.QDetect, corners: np.ndarray, scores: np.ndarray, classes: np.ndarray, most: int
) -> list[tuple[int, int, int]]:
    order = sorted(np.flatnonzero(scores >= node.least).tolist(), key=lambda i: (-int(scores[i]), i))
    kept: list[tuple[int, int, int]] = []
    for i in order:
        if len(kept) == most:
            break
        if not any(_overlap(corners[i], corners[j], node.overlap) for _, j, _ in kept):
            kept.append((int(scores[i]), i, int(classes[i])))
    return kept


def _overlap(a: np.ndarray, b: np.ndarray, limit: int) -> bool:
    """Whether intersection over union is above ``limit`` in Q15; sides in units of 2**-15."""
    top, left, bottom, right = ((int(x) >> 6, int(y) >> 6) for x, y in zip(a, b, strict=True))
    height, width = min(bottom) - max(top), min(right) - max(left)
    if height <= 0 or width <= 0:
        return False
    areas = [(bottom[i] - top[i]) * (right[i] - left[i]) for i in range(2)]
    common = height * width
    return (common << 15) > limit * (areas[0] + areas[1] - common)


def _outputs(
    node: q.QDetect, corners: np.ndarray, found: list[tuple[int, int, int]]
) -> tuple[np.ndarray, ...]:
    boxes = np.zeros((1, node.most, 4), np.float32)
    scores = np.zeros((1, node.most, 1), np.float32)
    classes = np.zeros((1, node.most, 1), np.uint8)
    table = np.asarray(node.score_table, I64)
    for n, (score, anchor, kind) in enumerate(found):
        # Rounded to 24 bits by the conversion, then scaled by a power of two: no other rounding.
        box = corners[anchor][[1, 0, 3, 2]] if node.x_first else corners[anchor]
        boxes[0, n] = box.astype(np.float32) * np.float32(2.0**-21)
        at, rest = (score + 32768) >> 8, (score + 32768) & 255
        share = table[at] + (((table[at + 1] - table[at]) * rest + 128) >> 8)
        scores[0, n] = np.float32(share) * np.float32(2.0**-15)
        classes[0, n] = kind - node.first_class
    return boxes, scores, classes, np.full((1, 1, 1), len(found), np.int32)
