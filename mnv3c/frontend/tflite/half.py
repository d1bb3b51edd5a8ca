"""Constants of float16: TFLite's "float16 quantisation" stores weights so, and widens them by operators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mnv3c.frontend.tflite.reader import Model


def widened(model: Model) -> Model:
    """The model with every float16 constant that a ``DEQUANTIZE`` widens as a float32 constant.

    Before::

        w16: float16 constant
        w = DEQUANTIZE(w16)
        y = CONV_2D(x, w, b)

    After::

        w: float32 constant
        y = CONV_2D(x, w, b)
    """
    tensors = list(model.tensors)
    operators = []
    for op in model.operators:
        source = tensors[op.inputs[0]] if len(op.inputs) == 1 and op.inputs[0] >= 0 else None
        if (
            op.name == "DEQUANTIZE"
            and source is not None
            and source.dtype == "float16"
            and len(op.outputs) == 1
        ):
            target = tensors[op.outputs[0]]
            if source.data is not None and (target.dtype, target.shape) == ("float32", source.shape):
                tensors[target.index] = replace(target, data=source.data.astype(np.float32))
                continue
        operators.append(op)
    return replace(model, tensors=tuple(tensors), operators=tuple(operators))
