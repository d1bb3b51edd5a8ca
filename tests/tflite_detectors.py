"""Writes small TFLite detectors as converters do, with ``TFLite_Detection_PostProcess`` at the end."""

from __future__ import annotations

import numpy as np

from tests.tflite_files import NONE, SAME, File

SIZES, EACH, CLASSES = ((8, 8), (4, 4)), (3, 2), 4
OPTIONS = {
    "max_detections": 10,
    "max_classes_per_detection": 1,
    "detections_per_class": 100,
    "use_regular_nms": True,
    "nms_score_threshold": 0.3,
    "nms_iou_threshold": 0.5,
    "num_classes": CLASSES,
    "y_scale": 10.0,
    "x_scale": 10.0,
    "h_scale": 5.0,
    "w_scale": 5.0,
}


def grid_anchors() -> np.ndarray:
    """``[N, 4]``: centre y and x, height, width; sides of a third of the image and less."""
    rows = []
    for (height, width), each in zip(SIZES, EACH, strict=True):
        for y in range(height):
            for x in range(width):
                for k in range(each):
                    rows.append([(y + 0.5) / height, (x + 0.5) / width, 0.35 / (k + 1), 0.3])
    return np.asarray(rows, np.float32)


def detector(
    dtype: str,
    options: dict | None = None,
    *,
    seed: int = 0,
    background: bool = True,
    scores_by: str = "LOGISTIC",
    beta: float = 1.0,
) -> File:
    """Two maps, each with a 1x1 convolution for boxes and one for scores, as converters write them.

    Args:
        scores_by: ``LOGISTIC``, ``SOFTMAX``, or ``float SOFTMAX`` behind a ``DEQUANTIZE``.
        beta: of the softmax.
    """
    rng = np.random.default_rng(seed)
    f = File()
    real = dtype == "float32"
    shift = 128 if dtype == "uint8" else 0
    columns = CLASSES + int(background)

    def value(shape, scale=1.0, zero_point=0):
        return f.tensor(shape, dtype) if real else f.tensor(shape, dtype, scale, zero_point + shift)

    def conv(x, shape, stride, spread):
        weight_shape = (shape[3], stride, stride, 3)
        if real:
            weight = f.tensor(weight_shape, dtype, data=rng.normal(0, spread / stride, weight_shape))
            bias = f.tensor((shape[3],), dtype, data=rng.normal(0, spread / 2, shape[3]))
        else:
            scale = np.float32(spread / stride / 50)
            data = np.clip(rng.normal(0, 50, weight_shape), -127, 127).round() + shift
            weight = f.tensor(weight_shape, dtype, scale, shift, data)
            bias_scale = np.float32(f.tensors[x].quantization.scale[0]) * scale
            data = rng.normal(0, spread / 2 / bias_scale, shape[3]).round()
            bias = f.tensor((shape[3],), "int32", bias_scale, None, data)
        out = value(shape, spread / 32, int(rng.integers(-10, 10)))
        return f.operator(
            "CONV_2D", (x, weight, bias), out, "Conv2DOptions", 1, **f.window(stride, SAME, NONE)
        )

    def joined(parts, scale, width):
        flat = []
        for part in parts:
            t = f.tensors[part]
            count = int(np.prod(t.shape)) // width
            quantization = () if real else (t.quantization.scale[0], t.quantization.zeroPoint[0] - shift)
            out = value((1, count, width), *quantization)
            shape = f.tensor((3,), "int32", data=[1, count, width])
            flat.append(
                f.operator("RESHAPE", (part, shape), out, "ReshapeOptions", newShape=[1, count, width])
            )
        total = sum(f.tensors[t].shape[1] for t in flat)
        # int8 converters give all operands one scale; uint8 ones need not.
        if dtype == "int8":
            for t in (*parts, *flat):
                f.tensors[t].quantization.scale = np.asarray([scale], np.float32)
                f.tensors[t].quantization.zeroPoint = np.asarray([3], np.int64)
        out = value((1, total, width), scale, 3)
        return f.operator(
            "CONCATENATION", flat, out, "ConcatenationOptions", axis=1, fusedActivationFunction=NONE
        )

    x = value((1, 16, 16, 3), 1 / 64)
    f.inputs = [x]
    maps = [
        [
            conv(x, (1, *size, each * width), 16 // size[0], spread)
            for size, each in zip(SIZES, EACH, strict=True)
        ]
        for width, spread in ((4, 1.5), (columns, 2.0))
    ]
    boxes, logits = joined(maps[0], 1.5 / 30, 4), joined(maps[1], 2 / 30, columns)
    count = f.tensors[logits].shape[1]

    def reals(t):
        return f.operator("DEQUANTIZE", (t,), f.tensor(f.tensors[t].shape, "float32"))

    if scores_by == "float SOFTMAX":
        out = f.tensor((1, count, columns), "float32")
        scores = f.operator("SOFTMAX", (reals(logits),), out, "SoftmaxOptions", beta=beta)
        boxes = reals(boxes)
    else:
        softmax = {"options": "SoftmaxOptions", "beta": beta} if scores_by == "SOFTMAX" else {}
        scores = f.operator(scores_by, (logits,), value((1, count, columns), 1 / 256, -128), **softmax)
        if dtype == "int8":
            boxes, scores = reals(boxes), reals(scores)
    anchors = grid_anchors()
    if dtype == "uint8":
        anchors = np.rint(anchors * 200)
        places = f.tensor(anchors.shape, dtype, 1 / 200, 0, anchors)
    else:
        places = f.tensor(anchors.shape, "float32", data=anchors)
    options = OPTIONS | (options or {})
    most = options["max_detections"]
    f.outputs = [f.tensor(shape, "float32") for shape in ((1, most, 4), (1, most), (1, most), (1,))]
    f.custom("TFLite_Detection_PostProcess", (boxes, scores, places), f.outputs, options)
    return f
