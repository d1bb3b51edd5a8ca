"""The end of a detector: from the head's integers to boxes, scores, classes and their count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Graph, Node, Quant, Tensor

OUTPUTS = ("boxes", "scores", "classes", "count")
_SIGMOID = tuple(min(round(2**15 / (1.0 + math.exp(-(i - 128) / 8.0))), 32767) for i in range(257))
_PLAIN = tuple(min(max(i - 128, 0) * 256, 32767) for i in range(257))
_EXPONENTIAL = tuple(round(2**16 * 2 ** (i / 256)) for i in range(257))
_META = "detection"


@dataclass(frozen=True)
class Settings:
    """What a detector's end is to do.

    Attributes:
        scales: what codes of y, x, height and width are divided by (the first two are equal, and the last).
        first_class: 1 where class 0 is background.
        score: the least score that counts, below 1; everything counts where it is 0 or less.
        overlap: intersection over union from above which the worse of two boxes goes.
        most, most_a_class: boxes in all, and of one class.
        agnostic: boxes of different classes suppress each other.
        logits: the maps hold logits, which a sigmoid makes scores; else they hold scores.
        x_first: codes and anchors are x, y, width, height.
    """

    scales: tuple[float, float] = (10.0, 5.0)
    first_class: int = 1
    score: float = 0.05
    overlap: float = 0.6
    most: int = 100
    most_a_class: int = 100
    agnostic: bool = False
    logits: bool = True
    x_first: bool = False


def least_logit(score: float) -> int:
    """The lowest logit, in units of 2**-11, whose score is at least ``score``."""
    _check_score(score)
    if score <= 0:
        return -32768
    return int(np.clip(math.ceil(math.log(score / (1 - score)) * 2**11), -32768, 32767))


def least_score(score: float) -> int:
    """The lowest score, in units of 2**-15, that is at least ``score``."""
    _check_score(score)
    return max(math.ceil(score * 2**15), -32768)


def _check_score(score: float) -> None:
    if not score < 1:
        raise Mnv3cError(f"a score of at least {score} is never reached", "detection")


def check_anchors(anchors: np.ndarray, place: str) -> None:
    """Raise ``Mnv3cError`` unless the reals ``[N, 4]`` are finite, within four images and not too many."""
    if not 0 < len(anchors) < 1 << 16:
        raise Mnv3cError(f"{len(anchors)} anchors; up to 65535 are supported", place)
    if not np.isfinite(anchors).all() or np.abs(anchors).max() >= 3.99 or anchors[:, 2:].min() < 0:
        raise Mnv3cError("has an anchor outside of four images (coordinates are shares of the image)", place)


def detection_node(
    graph: Graph,
    boxes: Sequence[str],
    scores: Sequence[str],
    anchors: np.ndarray,
    settings: Settings,
) -> q.QDetect:
    """The node for maps of codes and of logits (or scores) with one scale each.

    Args:
        anchors: reals ``[N, 4]``, centre y and x, height and width as shares of the image, in the order of
            the maps, their rows, their columns and the anchors of a pixel.

    Raises:
        Mnv3cError: a scale that does not fit, or maps that do not fit the anchors.
    """

    def multiplier(name: str, unit: float) -> tuple[int, int]:
        quant = graph.tensor(name).quant
        if quant is None or quant.per_channel:
            raise Mnv3cError("needs one scale", f"tensor {name}")
        found = round(quant.scale[0] / unit)
        if not 0 <= found < 2**31:
            raise Mnv3cError(
                f"scale {quant.scale[0]:.3g} is too large for a detector's head", f"tensor {name}"
            )
        return quant.zero_point[0], found

    if not settings.logits:
        for name in scores:
            quant, most = graph.tensor(name).quant, 32767 if graph.tensor(name).dtype == "int16" else 127
            if quant is None or quant.scale[0] * (most - quant.zero_point[0]) > 1.02:
                raise Mnv3cError(
                    "holds scores beyond one; a sigmoid is needed before a detection", f"tensor {name}"
                )
    box_scales = []
    for name in boxes:
        zero_point, centre = multiplier(name, 2.0**-30 * settings.scales[0])
        box_scales.append((zero_point, centre, multiplier(name, 2.0**-28 * settings.scales[1])[1]))
    per_pixel = graph.tensor(boxes[0]).elements // 4
    return q.QDetect(
        name="detect",
        inputs=(*boxes, *scores),
        outputs=OUTPUTS,
        anchors=np.rint(np.asarray(anchors, np.float64) * 2**20).astype(np.int32),
        box_scales=tuple(box_scales),
        score_scales=tuple(multiplier(name, 2.0**-27 if settings.logits else 2.0**-31) for name in scores),
        classes=graph.tensor(scores[0]).elements // max(per_pixel, 1),
        first_class=settings.first_class,
        least=least_logit(settings.score) if settings.logits else least_score(settings.score),
        overlap=round(settings.overlap * 2**15),
        most=settings.most,
        most_a_class=settings.most_a_class,
        agnostic=settings.agnostic,
        score_table=_SIGMOID if settings.logits else _PLAIN,
        exponential=_EXPONENTIAL,
        x_first=settings.x_first,
    )


def with_detection(graph: Graph, anchors: np.ndarray, settings: Settings) -> Graph:
    """A network whose outputs are a head's maps, codes first, with the detection in its ``meta``.

    Args:
        anchors: reals ``[N, 4]``, as ``detection_node`` takes them.
    """
    half = len(graph.outputs) // 2
    wanted = {
        "boxes": list(graph.outputs[:half]),
        "scores": list(graph.outputs[half:]),
        "anchors": anchors.tolist(),
        "settings": asdict(settings),
    }
    return graph.replace(meta={**graph.meta, _META: wanted})


def with_softmax(graph: Graph, maps: Sequence[str], classes: int) -> Graph:
    """A float network whose outputs ``maps`` become the softmax over each anchor's ``classes``."""
    nodes: list[Node] = []
    tensors, renamed = dict(graph.tensors), {}
    for name in maps:
        renamed[name] = f"{name}_softmax"
        shape = graph.tensor(name).shape
        tensors[renamed[name]] = Tensor(renamed[name], shape)
        nodes.append(f.Softmax(renamed[name], (name,), (renamed[name],), shape[2] // classes))
    outputs = tuple(renamed.get(o, o) for o in graph.outputs)
    return graph.replace(nodes=(*graph.nodes, *nodes), tensors=tensors, outputs=outputs)


def attach(graph: Graph) -> Graph:
    """An integer graph with the detection that its meta asks for, in place of its outputs.

    ``meta["detection"]`` holds ``boxes`` and ``scores`` (names of outputs), ``anchors`` (nested lists) and
    ``settings``, as ``Settings`` has them. A graph without is returned as it is.
    """
    wanted = graph.meta.get(_META)
    if not isinstance(wanted, Mapping):
        return graph
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in wanted["settings"].items()}
    settings = Settings(**given)
    node = detection_node(graph, wanted["boxes"], wanted["scores"], np.asarray(wanted["anchors"]), settings)
    most = settings.most
    added = {
        "boxes": Tensor("boxes", (1, most, 4)),
        "scores": Tensor("scores", (1, most, 1)),
        "classes": Tensor("classes", (1, most, 1), "uint8", Quant((1.0,))),
        "count": Tensor("count", (1, 1, 1), "int32", Quant((1.0,))),
    }
    facts = {k: v for k, v in wanted.items() if k != "anchors"} | {"anchors": len(node.anchors)}
    meta = {**graph.meta, _META: facts, "classes": node.classes - node.first_class}
    return graph.replace(
        nodes=(*graph.nodes, node), tensors={**graph.tensors, **added}, outputs=OUTPUTS, meta=meta
    )
