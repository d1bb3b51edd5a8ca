"""The end of an ONNX detector: from the head's maps through ``NonMaxSuppression`` to the outputs.

Exporters write the decoding of boxes out in arithmetic, each in its own way. So it is not recognised by
its operators: what lies between the head's maps and the two operands of ``NonMaxSuppression`` is run on
numbers (by ONNX's own reference evaluator), the anchors and scales are read off the results, and other random
numbers must come out as the formula says. Only then does one stage (``QDetect``) take its place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.onnx_model.read import MAX_ELEMENTS, describe, initializers, model_input, printable
from mnv3c.ir.detection import Settings, check_anchors

NAME = "NonMaxSuppression"
# What may lie between the head's maps and the suppression.
# fmt: off
_BETWEEN = frozenset((
    "Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten",
    "Identity", "Cast", "Constant", "Gather", "Add", "Sub", "Mul", "Div", "Exp", "Sigmoid", "Softmax",
))
# fmt: on
# What picks rows out of the result: the stage's own outputs stand for all of it.
# fmt: off
_BEHIND = frozenset((
    "Gather", "GatherND", "GatherElements", "Slice", "Squeeze", "Unsqueeze", "Cast", "Reshape",
    "Transpose", "Concat", "Split", "TopK", "Identity", "Flatten", "Constant", "Shape",
))
# fmt: on
_MOST = 1000
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Detection:
    """What the end of a detector does.

    Attributes:
        boxes: how many of the head's maps, the first outputs, hold codes; as many hold scores.
        anchors: float64 ``[N, 4]``, centres and sides as shares of the image, in the order of the codes.
        settings: ``logits`` where scores are the sigmoid of the maps; else a softmax makes them.
        classes: scores an anchor.
        notes: what the user should know.
    """

    boxes: int
    anchors: np.ndarray
    settings: Settings
    classes: int
    notes: tuple[str, ...]


def split(model: onnx.ModelProto, given: tuple[int, ...] | None) -> tuple[onnx.ModelProto, Detection | None]:
    """The network up to its head, whose maps are then its outputs, and the detection behind them.

    A model without ``NonMaxSuppression`` is returned as it is.

    Args:
        given: shape of the input where the model leaves it open.

    Raises:
        Mnv3cError: names the node that is not supported.
    """
    found = [n for n in model.graph.node if n.op_type == NAME and n.domain in ("", "ai.onnx")]
    if not found:
        return model, None
    if len(found) > 1:
        raise Mnv3cError("a second detection in one model is not supported", describe(found[1]))
    return _Tail(model, given, found[0]).split()


class _Tail:
    def __init__(self, model: onnx.ModelProto, given: tuple[int, ...] | None, nms: onnx.NodeProto) -> None:
        self.model, self.nms, self.place = model, nms, describe(nms)
        self.centred = any(a.name == "center_point_box" and a.i == 1 for a in nms.attribute)
        self.constants = initializers(model)
        self.input, self.size = model_input(model, given, self.constants)
        self.producers = {o: n for n in model.graph.node for o in n.output if o}
        self.shapes = self._shapes()

    def split(self) -> tuple[onnx.ModelProto, Detection]:
        names = [*self.nms.input, "", "", ""]
        if not names[0] or not names[1]:
            raise Mnv3cError("lacks boxes or scores", self.place)
        self._check_behind(names[0], names[1])
        codes, scores = self._maps(names[0]), self._maps(names[1])
        score_maps, classes, first_class, logits = self._scores(names[1], scores)
        counts = [math.prod(self.shapes[m]) // classes for m in score_maps]
        box_maps, anchors, scales, x_first = self._boxes(names[0], codes, counts)
        anchors, pixels = self._shares(anchors, x_first)
        check_anchors(anchors, self.place)
        rows = classes - first_class
        most_a_class = self._number(names[2], 0)
        if not most_a_class >= 1:
            raise Mnv3cError("keeps no box (max_output_boxes_per_class)", self.place)
        most_a_class = int(min(most_a_class, len(anchors)))
        most = min(most_a_class * rows, self._top(), _MOST)
        overlap, score = self._number(names[3], 0.0), self._number(names[4], -math.inf)
        if not 0 <= overlap <= 1 or not score < 1:
            raise Mnv3cError(f"has thresholds of {overlap:g} and {score:g}", self.place)
        settings = Settings(
            scales, first_class, score, overlap, most, most_a_class, logits=logits, x_first=x_first
        )
        note = f"detection: the {most} best boxes of all classes, best first"
        notes = (note + (", as shares of the image where the model has pixels" if pixels else ""),)
        maps = [*box_maps, *score_maps]
        return self._head(maps), Detection(len(box_maps), anchors, settings, classes, notes)

    # ---- the model around ----

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Static shapes of what has one, with the model's input of its full shape."""
        fixed = onnx.ModelProto()
        fixed.CopyFrom(self.model)
        for value in fixed.graph.input:
            if value.name == self.input:
                value.CopyFrom(helper.make_tensor_value_info(self.input, 1, self.size))
        del fixed.graph.value_info[:]
        try:
            graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
        except Exception:  # whatever shape inference stumbles over
            raise Mnv3cError("the shapes of the model do not fit", self.place) from None
        found = {}
        for value in (*graph.value_info, *graph.output, *graph.input):
            dims = value.type.tensor_type.shape.dim
            if all(d.HasField("dim_value") for d in dims):
                found[value.name] = tuple(int(d.dim_value) for d in dims)
        return found

    def _check_behind(self, boxes: str, scores: str) -> None:
        """All outputs are made of the suppression's, by operators that pick rows."""
        behind = {o for o in self.nms.output if o}
        for node in self.model.graph.node:
            if node is not self.nms and behind.intersection(node.input):
                if node.op_type not in _BEHIND:
                    raise Mnv3cError(f"is not supported behind {NAME}", describe(node))
                behind.update(o for o in node.output if o)
        known = behind | set(self._subgraph([boxes, scores])[1])
        for node in self.model.graph.node:
            if node.op_type in _BEHIND and known.issuperset(i for i in node.input if i not in self.constants):
                known.update(node.output)
        for output in self.model.graph.output:
            if output.name not in known:
                where = f"output {printable(output.name)!r}"
                raise Mnv3cError("lies beside the detection, which is not supported", where)

    def _top(self) -> int:
        """What a ``TopK`` behind the suppression keeps."""
        found = [n for n in self.model.graph.node if n.op_type == "TopK" and len(n.input) > 1]
        numbers = [self.constants[n.input[1]] for n in found if n.input[1] in self.constants]
        return min((int(k.ravel()[0]) for k in numbers if k.size == 1 and k.ravel()[0] > 0), default=_MOST)

    def _number(self, name: str, default: float) -> float:
        """A constant operand of the suppression."""
        if not name:
            return default
        nodes, _, feeds = self._subgraph_of(name)
        if feeds:
            raise Mnv3cError(f"its operand {printable(name)!r} is not constant", self.place)
        value = self.constants[name] if name in self.constants else self._run(nodes, {}, name)
        if value.size != 1 or math.isnan(float(value.ravel()[0])):
            raise Mnv3cError(f"its operand {printable(name)!r} is no number", self.place)
        return float(value.ravel()[0])

    def _head(self, maps: Sequence[str]) -> onnx.ModelProto:
        head = onnx.ModelProto()
        head.CopyFrom(self.model)
        needed = set(maps)
        kept = []
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        del head.graph.node[:], head.graph.output[:], head.graph.value_info[:]
        head.graph.node.extend(reversed(kept))
        head.graph.output.extend(helper.make_tensor_value_info(m, 1, self.shapes[m]) for m in maps)
        initial = [i for i in self.model.graph.initializer if i.name in needed]
        del head.graph.initializer[:]
        head.graph.initializer.extend(initial)
        return head

    # ---- what lies between ----

    def _subgraph(self, names: Sequence[str]) -> tuple[list[onnx.NodeProto], list[str], list[str]]:
        """Nodes in order, tensors that they write or read, and among these the head's maps."""
        wanted, maps, seen = list(names), [], set()
        while wanted:
            name = wanted.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            node = self.producers.get(name)
            if node is not None and node.op_type in _BETWEEN and node.domain in ("", "ai.onnx"):
                wanted.extend(node.input)
            elif name not in self.constants:
                maps.append(name)
        inner = [n for n in self.model.graph.node if seen.intersection(n.output) and n.op_type in _BETWEEN]
        return inner, sorted(seen), sorted(maps)

    def _subgraph_of(self, name: str) -> tuple[list[onnx.NodeProto], list[str], list[str]]:
        nodes, seen, maps = self._subgraph([name])
        for tensor in seen:
            if tensor not in self.constants and math.prod(self.shapes.get(tensor, (0,))) > MAX_ELEMENTS:
                raise Mnv3cError(f"{printable(tensor)!r} is too large", self.place)
        return nodes, seen, maps

    def _maps(self, name: str) -> list[str]:
        """The head's maps that ``name`` is computed from, each ``[1, C, H, W]``."""
        _, _, maps = self._subgraph_of(name)
        for m in maps:
            shape = self.shapes.get(m, ())
            if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or m == self.input:
                node = self.producers.get(m)
                where = describe(node) if node is not None else f"input {printable(m)!r}"
                raise Mnv3cError(
                    f"lies between the head's maps and {NAME}, where it is not supported: its result"
                    f" {list(shape)} is no map [1, C, H, W] of codes or scores",
                    where,
                )
        if not maps:
            raise Mnv3cError(f"{printable(name)!r} is constant", self.place)
        return maps

    def _run(self, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], name: str) -> np.ndarray:
        needed = {i for n in nodes for i in n.input}
        graph = helper.make_graph(
            nodes,
            "tail",
            [helper.make_tensor_value_info(k, 1, v.shape) for k, v in feeds.items()],
            [helper.make_tensor_value_info(name, 1, None)],
            [i for i in self.model.graph.initializer if i.name in needed],
        )
        part = helper.make_model(graph, opset_imports=list(self.model.opset_import), ir_version=8)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                (result,) = ReferenceEvaluator(part).run(None, feeds)
        except Exception as error:  # whatever the evaluator stumbles over
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise Mnv3cError(
                f"what leads to {printable(name)!r} cannot be computed: {text}", self.place
            ) from None
        return np.asarray(result)

    def _compute(self, name: str, maps: Sequence[str], values: Sequence[np.ndarray]) -> np.ndarray:
        nodes, _, _ = self._subgraph_of(name)
        feeds = {m: v.astype(np.float32) for m, v in zip(maps, values, strict=True)}
        if name in feeds:
            return feeds[name]
        return self._run(nodes, feeds, name)

    # ---- scores ----

    def _scores(self, name: str, maps: list[str]) -> tuple[list[str], int, int, bool]:
        """The maps in the order of the anchors, scores an anchor, the first that counts, and whether scores
        are the sigmoid of the maps, not the softmax.
        """
        total = sum(math.prod(self.shapes[m]) for m in maps)
        random = np.random.default_rng(1)
        fed = [random.uniform(-4.0, 4.0, self.shapes[m]) for m in maps]
        got = self._compute(name, maps, fed).astype(np.float64)
        if got.ndim != 3 or got.shape[0] != 1 or total % max(got.shape[2], 1):
            raise Mnv3cError(
                f"scores of shape {list(got.shape)}; [1, classes, boxes] is expected", self.place
            )
        classes = total // got.shape[2]
        first = classes - got.shape[1]
        if first not in (0, 1) or classes > 256 or any(self.shapes[m][1] % classes for m in maps):
            raise Mnv3cError(f"{got.shape[1]} rows of scores for {classes} scores an anchor", self.place)
        rows = {m: _rows(v, classes) for m, v in zip(maps, fed, strict=True)}
        for logits, function in ((True, _sigmoid), (False, _softmax)):
            order = self._order({m: function(v)[:, first:] for m, v in rows.items()}, got[0].T)
            if order is not None:
                return order, classes, first, logits
        raise Mnv3cError(
            "its scores are not the sigmoid of the head's maps, or the softmax over each anchor's classes,"
            " anchor by anchor (all classes, or all but the first)",
            self.place,
        )

    def _order(self, want: dict[str, np.ndarray], got: np.ndarray) -> list[str] | None:
        """The maps one behind the other as ``got`` has their rows; ``None`` if it has other numbers."""
        order: list[str] = []
        at = 0
        while len(order) < len(want):
            following = next((m for m in want if m not in order and _close(want[m], got[at:])), None)
            if following is None:
                return None
            order.append(following)
            at += len(want[following])
        return order

    # ---- boxes ----

    def _boxes(
        self, name: str, maps: list[str], counts: list[int]
    ) -> tuple[list[str], np.ndarray, tuple[float, float], bool]:
        """The maps in the order of the anchors, the anchors, the scales, and whether x comes first.

        Args:
            counts: anchors of every map of scores, in order.
        """
        zeros = [np.zeros(self.shapes[m]) for m in maps]
        base = self._corners(name, maps, zeros)
        count = sum(counts)
        if base.shape != (count, 4) or any(self.shapes[m][1] % 4 for m in maps):
            raise Mnv3cError(f"{list(base.shape)} boxes and codes for {count} scores", self.place)
        starts = {}
        for i, m in enumerate(maps):
            moved = [np.full_like(z, 0.5) if j == i else z for j, z in enumerate(zeros)]
            changed = np.flatnonzero((self._corners(name, maps, moved) != base).any(axis=1))
            starts[m] = int(changed[0]) if len(changed) else count
        order = sorted(maps, key=lambda m: starts[m])
        if [math.prod(self.shapes[m]) // 4 for m in order] != counts:
            raise Mnv3cError("its boxes and scores come from maps of different sizes", self.place)
        anchors = np.concatenate([(base[:, :2] + base[:, 2:]) / 2, base[:, 2:] - base[:, :2]], axis=1)
        if not (np.isfinite(anchors).all() and (anchors[:, 2:] > 0).all()):
            raise self._not_decoding("boxes of codes that are all zero have no sides")
        ones = self._corners(name, order, [np.ones(self.shapes[m]) for m in order])
        shift = ((ones[:, :2] + ones[:, 2:]) / 2 - anchors[:, :2]) / anchors[:, 2:]
        growth = np.log(np.maximum((ones[:, 2:] - ones[:, :2]) / anchors[:, 2:], 1e-30))
        if min(np.median(shift), np.median(growth)) < 1e-6:
            raise self._not_decoding("codes do not move centres and stretch sides")
        scales = (_round(1 / float(np.median(shift))), _round(1 / float(np.median(growth))))
        random = np.random.default_rng(0)
        for reach in (0.3, 3.0):
            values = [random.normal(0, reach, self.shapes[m]) for m in order]
            codes = np.concatenate([_rows(v, 4) for v in values])
            centre = codes[:, :2] / scales[0] * anchors[:, 2:] + anchors[:, :2]
            side = np.exp(codes[:, 2:] / scales[1]) * anchors[:, 2:]
            want = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
            got = self._corners(name, order, values)
            if not np.allclose(got, want, rtol=_TOLERANCE, atol=_TOLERANCE * float(side.mean())):
                raise self._not_decoding("random codes give other boxes than centre and side by exp")
        return order, anchors, scales, self._x_first(anchors, order)

    def _corners(self, name: str, maps: Sequence[str], values: Sequence[np.ndarray]) -> np.ndarray:
        """Boxes ``[N, 4]`` as two corners; float64."""
        boxes = self._compute(name, maps, values).astype(np.float64)
        if boxes.ndim != 3 or boxes.shape[0] != 1 or boxes.shape[2] != 4:
            raise Mnv3cError(f"boxes of shape {list(boxes.shape)}; [1, boxes, 4] is expected", self.place)
        first, second = boxes[0, :, :2], boxes[0, :, 2:]
        if self.centred:
            first, second = first - second / 2, first + second / 2
        return np.concatenate([first, second], axis=1)

    def _x_first(self, anchors: np.ndarray, order: Sequence[str]) -> bool:
        """Whether the first coordinate is the one that grows along rows of the largest map."""
        start = 0
        for m in order:
            _, channels, height, width = self.shapes[m]
            count = height * width * channels // 4
            if min(height, width) > 1:
                grid = anchors[start : start + count, :2].reshape(height, width, -1, 2)
                down, along = (np.abs(np.diff(grid[..., 0], axis=i)).mean() for i in (0, 1))
                return bool(along > down)
            start += count
        return self.centred  # the operator's own order is x first for centres, y first for corners

    def _shares(self, anchors: np.ndarray, x_first: bool) -> tuple[np.ndarray, bool]:
        """Anchors as shares of the image, and whether they were pixels."""
        if np.abs(anchors).max() < 4:
            return anchors, False
        height, width = self.size[2:] if self.size[1] in (1, 3, 4) else self.size[1:3]
        size = (width, height) if x_first else (height, width)
        return anchors / np.asarray([*size, *size]), True

    def _not_decoding(self, what: str) -> Mnv3cError:
        return Mnv3cError(
            f"its boxes are not decoded from codes (centres moved in units of an anchor's sides, sides"
            f" stretched by exp): {what}",
            self.place,
        )


def _rows(values: np.ndarray, width: int) -> np.ndarray:
    """A map ``[1, C, H, W]`` anchor by anchor, ``[H * W * C / width, width]``."""
    return values[0].transpose(1, 2, 0).reshape(-1, width)


def _sigmoid(rows: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-rows)))


def _softmax(rows: np.ndarray) -> np.ndarray:
    e = np.exp(rows)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _close(want: np.ndarray, rows: np.ndarray) -> bool:
    return len(rows) >= len(want) and bool(np.allclose(rows[: len(want)], want, rtol=0, atol=1e-6))


def _round(value: float) -> float:
    """A scale as it was meant: float32 arithmetic gives 9.999998 for 10."""
    near = float(f"{value:.4g}")
    return near if abs(near - value) < 1e-4 * value else value
