"""One form of bounds: ``R.clip(x, low, high)``.

Before::

    lv1 = R.nn.relu(lv)
    lv2 = R.call_tir(maximum, (lv1, const)); lv3 = R.call_tir(minimum, (lv2, const))

After::

    lv1 = R.clip(lv, 0, inf)
    lv2 = R.clip(lv1, c, inf); lv3 = R.clip(lv2, -inf, c)

The ONNX importer writes Clip as tensor-expression kernels named ``maximum`` and ``minimum``; nothing else
in an accepted model becomes such a kernel.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import Context, array, is_constant, operator, rewrite


def clip_forms(mod: Any) -> Any:
    """Express ReLU, ReLU6, maximum and minimum with constants as ``R.clip``."""
    return rewrite(mod, _clip)


def _clip(_: Context, call: Any) -> Any | None:
    name, args = operator(call), list(call.args) if isinstance(call, relax.Call) else []
    if name == "relax.nn.relu":
        return relax.op.clip(args[0], 0.0, math.inf)
    if name == "relax.nn.relu6":
        return relax.op.clip(args[0], 0.0, 6.0)
    if name == "relax.call_tir":
        name, args = "relax." + args[0].name_hint.rstrip("0123456789_"), list(args[1].fields)
        if name not in ("relax.maximum", "relax.minimum"):
            raise Mnv3cError(f"kernel {name} is not a bound", "relax module")
    if name not in ("relax.maximum", "relax.minimum"):
        return None
    x, bound = (args[1], args[0]) if is_constant(args[0]) else args
    if not is_constant(bound) or array(bound).size != 1:
        raise Mnv3cError("bounds must be one constant", name.removeprefix("relax."))
    value = float(array(bound).reshape(()))
    return (
        relax.op.clip(x, value, math.inf) if name == "relax.maximum" else relax.op.clip(x, -math.inf, value)
    )
