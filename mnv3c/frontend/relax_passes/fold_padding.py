"""Zero padding inside the convolution that reads it.

Before::

    lv1 = R.nn.pad(lv, [0, 0, 0, 0, 0, 1, 0, 1]); lv2 = R.nn.conv2d(lv1, w, padding=[0, 0, 0, 0])

After::

    lv2 = R.nn.conv2d(lv, w, padding=[0, 0, 1, 1])

PyTorch's convolutions pad evenly, so networks with TensorFlow's padding bring an operator for it.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from mnv3c.frontend.relax_passes.straight_line import Context, operator, rewrite


def fold_padding(mod: Any) -> Any:
    """Fold padding of height and width with zero into every convolution behind it."""
    return rewrite(mod, _fold)


def _fold(context: Context, call: Any) -> Any | None:
    if operator(call) != "relax.nn.conv2d":
        return None
    pad = context.defined_by(call.args[0], "relax.nn.pad")
    if pad is None or str(pad.attrs.pad_mode) != "constant" or float(pad.attrs.pad_value) != 0.0:
        return None
    # Before and after each of batch, channels, height and width.
    *outer, top, bottom, left, right = (int(p) for p in pad.attrs.pad_width)
    if any(outer):
        return None
    own = [int(p) for p in call.attrs.padding]
    padding = [a + b for a, b in zip(own, (top, left, bottom, right), strict=True)]
    attrs = call.attrs
    return relax.op.nn.conv2d(
        pad.args[0],
        call.args[1],
        strides=[int(s) for s in attrs.strides],
        padding=padding,
        dilation=[int(d) for d in attrs.dilation],
        groups=int(attrs.groups),
    )
