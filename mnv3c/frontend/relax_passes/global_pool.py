"""One form of global average pooling: ``R.mean(x, axis=[2, 3], keepdims=True)``.

Before::

    lv1 = R.nn.avg_pool2d(lv, pool_size=[7, 7])            (lv is 7x7)
    lv2 = R.nn.adaptive_avg_pool2d(lv, output_size=[1, 1])

After::

    lv1 = R.mean(lv, axis=[2, 3], keepdims=True); lv2 = R.mean(lv, axis=[2, 3], keepdims=True)
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import Context, operator, rewrite, shape_of


def global_pool(mod: Any) -> Any:
    """Express every average over a whole map as ``R.mean``."""
    return rewrite(mod, _pool)


def _pool(context: Context, call: Any) -> Any | None:
    name = operator(call)
    if name == "relax.nn.adaptive_avg_pool2d":
        if shape_of(context.old_variable)[2:] != (1, 1):
            raise Mnv3cError("only adaptive pooling to 1x1 is supported", context.current)
        return relax.op.mean(call.args[0], [2, 3], keepdims=True)
    if name != "relax.nn.avg_pool2d":
        return None
    covers = tuple(int(k) for k in call.attrs.pool_size) == shape_of(call.args[0])[2:]
    unpadded = all(int(p) == 0 for p in call.attrs.padding)
    return relax.op.mean(call.args[0], [2, 3], keepdims=True) if covers and unpadded else None
