"""The end of a TFLite detector, ``TFLite_Detection_PostProcess``, and what lies between it and the head.

The operator takes all box codes as ``[1, N, 4]``, all scores as ``[1, N, classes]`` and anchors. Converters
make the first two of the head's maps by ``RESHAPE`` and ``CONCATENATION``, with a ``LOGISTIC``, or a
``SOFTMAX`` over the classes of an anchor, for the scores: nothing that moves a value, since maps are
``[1, H, W, C]`` here as there. So the whole end becomes one stage that reads the maps (``QDetect``), behind a
softmax over runs of their channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flatbuffers import flexbuffers

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.tflite.operators import check_beta, constant
from mnv3c.frontend.tflite.reader import Model, OperatorInfo, TensorInfo
from mnv3c.ir.detection import Settings, check_anchors

NAME = "CUSTOM TFLite_Detection_PostProcess"
_RENAMES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_SCORES = ("LOGISTIC", "SOFTMAX")
_STEPS = (*_RENAMES, "CONCATENATION", *_SCORES, "QUANTIZE", "DEQUANTIZE")
_MOST_OPTIONS = 1 << 16  # bytes
_MOST_JOINED = 64
_MOST_STEPS = 32
# What the operator takes where the file does not say.
_MOST_A_CLASS = 100


@dataclass(frozen=True)
class Map:
    """A map of the head on its way into the operator.

    Attributes:
        tensor: what the network computes, ``[1, H, W, C]``.
        steps: (operator, its result) for what may change values: ``CONCATENATION`` and ``QUANTIZE`` where
            the scale changes, ``LOGISTIC``, ``SOFTMAX``, ``DEQUANTIZE``.
    """

    tensor: TensorInfo
    steps: tuple[tuple[str, TensorInfo], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.steps)


@dataclass(frozen=True)
class Detection:
    """What the end of a detector does.

    Attributes:
        place: for errors.
        boxes, scores: the head's maps, in the order of the anchors.
        anchors: reals ``[N, 4]``: centre y, centre x, height, width.
        settings: ``logits`` where scores are of a ``LOGISTIC`` in float.
        classes: scores an anchor.
    """

    place: str
    boxes: tuple[Map, ...]
    scores: tuple[Map, ...]
    anchors: np.ndarray
    settings: Settings
    classes: int


def split(model: Model) -> tuple[Model, Detection | None]:
    """The network up to its head, whose maps are then its outputs, and the detection behind them.

    A model without the operator is returned as it is.

    Raises:
        Mnv3cError: the operator is used in a way that is not supported.
    """
    found = [op for op in model.operators if op.name == NAME]
    if not found:
        return model, None
    op, place = found[0], f"{model.path}: {found[0].place}"
    if len(found) > 1:
        raise Mnv3cError(
            "a second detection in one model is not supported", f"{model.path}: {found[1].place}"
        )
    if len(op.inputs) != 3 or min(op.inputs) < 0 or len(op.outputs) != 4:
        raise Mnv3cError(f"has {len(op.inputs)} inputs and {len(op.outputs)} outputs, not 3 and 4", place)
    other = next((i for i in model.outputs if i not in op.outputs), None)
    if other is not None:
        where = f"{model.path}: {model.tensors[other].place}"
        raise Mnv3cError("is an output beside the detection's, which is not supported", where)
    tail: set[int] = {op.index}
    codes, scores, anchors = (model.tensors[i] for i in op.inputs)
    count = _anchor_count(codes, scores, anchors, place)
    boxes, classes = _trace(model, codes, op.index, tail, place), _trace(model, scores, op.index, tail, place)
    settings = _settings(_options(op, place), scores.shape[2], place)
    for each, width in ((boxes, 4), (classes, scores.shape[2])):
        _check_maps(model, each, width, count, place)
    pixels = [[math.prod(m.tensor.shape) // width for m in each] for each, width in
              ((boxes, 4), (classes, scores.shape[2]))]  # fmt: skip
    if pixels[0] != pixels[1]:
        raise Mnv3cError(f"joins boxes {pixels[0]} and scores {pixels[1]}", place)
    settings = dataclasses.replace(settings, logits=_reads_logits(boxes, classes, scores.shape[2], place))
    places = _reals(anchors, place).reshape(count, 4)
    head = dataclasses.replace(
        model,
        operators=tuple(o for o in model.operators if o.index not in tail),
        outputs=tuple(m.tensor.index for m in (*boxes, *classes)),
    )
    if len(set(head.outputs)) != len(head.outputs):
        raise Mnv3cError("reads one map twice", place)
    return head, Detection(place, boxes, classes, places, settings, scores.shape[2])


def _reads_logits(boxes: tuple[Map, ...], scores: tuple[Map, ...], classes: int, place: str) -> bool:
    """Whether the detection itself makes scores of logits, for a ``LOGISTIC`` in float."""
    for name in _SCORES:
        if any(name in m.names for m in boxes):
            raise Mnv3cError(f"has a {name} for boxes", place)
    found = [[(name, t.dtype == "float32") for name, t in m.steps if name in _SCORES] for m in scores]
    if any(each != found[0] or len(each) > 1 for each in found):
        raise Mnv3cError("needs one LOGISTIC or SOFTMAX, or none, for all scores", place)
    for m in scores:
        for i, (name, t) in enumerate(m.steps):
            if name == "SOFTMAX" and t.shape[-1:] != (classes,):
                wide = t.shape[-1] if t.shape else 1
                raise Mnv3cError(f"has a SOFTMAX over {wide} values, not the {classes} of an anchor", place)
            real = name in _SCORES and t.dtype == "float32"
            if real and any(later.dtype != "float32" for _, later in m.steps[i:]):
                raise Mnv3cError(f"quantises scores behind a {name} in float", place)
    return found[0] == [("LOGISTIC", True)]


def _anchor_count(codes: TensorInfo, scores: TensorInfo, anchors: TensorInfo, place: str) -> int:
    shapes = [list(t.shape) for t in (codes, scores, anchors)]
    count = anchors.shape[0] if len(anchors.shape) == 2 else 0
    if (
        shapes != [[1, count, 4], [1, count, scores.shape[-1] if scores.shape else 0], [count, 4]]
        or not count
    ):
        raise Mnv3cError(f"boxes, scores and anchors have shapes {shapes}", place)
    return count


def _reals(t: TensorInfo, place: str) -> np.ndarray:
    """A constant's reals, float64."""
    with np.errstate(invalid="ignore"):  # a NaN that signals
        data = constant(t, "list of anchors", place).astype(np.float64)
    if t.dtype != "float32":
        if t.dtype not in ("uint8", "int8") or len(t.scale) != 1:
            raise Mnv3cError(f"has anchors of {t.dtype}", place)
        data = (data - t.zero_point[0]) * t.scale[0]
    check_anchors(data, place)
    return data


def _trace(
    model: Model, t: TensorInfo, before: int, tail: set[int], place: str, depth: int = 0
) -> tuple[Map, ...]:
    """The maps that ``t`` consists of, one behind the other; adds the operators in between to ``tail``."""
    producers = {o: op for op in model.operators if op.index < before for o in op.outputs}
    steps: list[tuple[str, TensorInfo]] = []
    while True:
        op = producers.get(t.index)
        if op is None or op.name not in _STEPS:
            return (Map(t, tuple(reversed(steps))),)
        if len(op.outputs) != 1 or not op.inputs or op.inputs[0] < 0 or op.index >= before:
            raise Mnv3cError("is malformed", f"{model.path}: {op.place}")
        if len(steps) == _MOST_STEPS or depth == _MOST_STEPS:
            raise Mnv3cError("has too long a way from the head", place)
        before = op.index
        tail.add(op.index)
        if op.name == "CONCATENATION":
            break
        if op.name == "SOFTMAX":
            check_beta(op, f"{model.path}: {op.place}")
        if op.name not in _RENAMES:
            steps.append((op.name, t))
        t = model.tensors[op.inputs[0]]
    where = f"{model.path}: {op.place}"
    axis = (op.options or {}).get("Axis", 0) % max(len(t.shape), 1)
    if any(n != 1 for n in t.shape[:axis]) or (op.options or {}).get("FusedActivationFunction", 0):
        raise Mnv3cError("does not put the head's maps one behind the other", where)
    if len(op.inputs) > _MOST_JOINED or min(op.inputs) < 0:
        raise Mnv3cError(f"joins {len(op.inputs)} maps", where)
    steps.append(("CONCATENATION", t))
    maps: list[Map] = []
    for i in op.inputs:
        for part in _trace(model, model.tensors[i], op.index, tail, place, depth + 1):
            maps.append(Map(part.tensor, (*part.steps, *reversed(steps))))
    return tuple(maps)


def _check_maps(model: Model, maps: tuple[Map, ...], width: int, count: int, place: str) -> None:
    for m in maps:
        shape = m.tensor.shape
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or shape[3] % width:
            where = f"{model.path}: {m.tensor.place}"
            raise Mnv3cError(f"of shape {list(shape)} is no map of {width} values an anchor", where)
    total = sum(math.prod(m.tensor.shape) for m in maps)
    if total != count * width:
        raise Mnv3cError(f"its maps hold {total} values of {count * width}", place)


def _options(op: OperatorInfo, place: str) -> Mapping[str, float]:
    """The flexbuffer's numbers by name. Only its root is looked at, so no damage can loop or recurse."""
    if not 0 < len(op.custom) <= _MOST_OPTIONS:
        raise Mnv3cError("lacks its options", place)
    try:
        root = flexbuffers.GetRoot(bytearray(op.custom))
        table = root.AsMap if root.IsMap else None
        names, values = (table.Keys, table.Values) if table is not None else ([], [])
        if not 0 < len(names) <= 64 or len(names) != len(values):
            raise ValueError("no table")
        found = {str(names[i].AsKey): values[i] for i in range(len(names))}
        return {k: float(v.AsFloat) for k, v in found.items() if v.IsNumeric or v.IsBool}
    except Exception:  # whatever the reader of flexbuffers stumbles over
        raise Mnv3cError("has damaged options", place) from None


def _settings(options: Mapping[str, float], columns: int, place: str) -> Settings:
    def number(name: str, low: float, high: float, default: float | None = None) -> float:
        value = options.get(name, default)
        if value is None or not low <= value <= high:
            raise Mnv3cError(f"its option {name} is {value}", place)
        return value

    y, x, h, w = (number(f"{axis}_scale", 1e-6, 1e6) for axis in "yxhw")
    if y != x or h != w:
        raise Mnv3cError(
            f"has scales {y:g}, {x:g}, {h:g}, {w:g}; equal ones for y and x, h and w are supported", place
        )
    classes = int(number("num_classes", 1, 256))
    if columns - classes not in (0, 1) or columns > 256:
        raise Mnv3cError(f"has {columns} scores an anchor for {classes} classes", place)
    most = int(number("max_detections", 1, 1 << 12))
    regular = bool(options.get("use_regular_nms", 0.0))
    if not regular and number("max_classes_per_detection", 1, 256) != 1:
        raise Mnv3cError("several classes a box (max_classes_per_detection) are not supported", place)
    a_class = int(number("detections_per_class", 1, 1 << 16, _MOST_A_CLASS)) if regular else most
    return Settings(
        scales=(y, h),
        first_class=columns - classes,
        score=number("nms_score_threshold", -math.inf, 0.99999),
        overlap=number("nms_iou_threshold", 1e-9, 1.0),
        most=most,
        most_a_class=a_class,
        agnostic=not regular,
    )
