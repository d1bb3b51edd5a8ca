"""Evaluate what depends on constants alone, in NumPy.

Before::

    lv1 = R.reshape(const[16], (1, 16, 1, 1)); lv2 = R.add(lv, lv1)

After::

    lv2 = R.add(lv, const[1, 16, 1, 1])

(``relax.transform.FoldConstant`` does the same by compiling a kernel for each expression, which takes
longer than the rest of the front end.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from mnv3c.frontend.relax_passes.straight_line import Context, array, is_constant, operator, rewrite


def fold_constants(mod: Any) -> Any:
    """Replace every call whose tensor operands are constants by its value."""
    return rewrite(mod, _fold)


def _fold(_: Context, call: Any) -> Any | None:
    rule = _RULES.get(operator(call))
    if rule is None or not all(is_constant(a) for a in call.args if not isinstance(a, relax.ShapeExpr)):
        return None
    arrays = [array(a) for a in call.args if not isinstance(a, relax.ShapeExpr)]
    with np.errstate(all="ignore"):
        value = np.asarray(rule(call, *arrays), order="C")
    return relax.const(value, str(value.dtype))


def _permute(call: Any, x: np.ndarray) -> np.ndarray:
    axes = call.attrs.axes
    return x.transpose(None if axes is None else [int(a) for a in axes])


_RULES: dict[str, Callable[..., np.ndarray]] = {
    "relax.reshape": lambda call, x: x.reshape([int(d) for d in call.args[1].values]),
    "relax.permute_dims": _permute,
    "relax.add": lambda _, a, b: a + b,
    "relax.subtract": lambda _, a, b: a - b,
    "relax.multiply": lambda _, a, b: a * b,
    "relax.divide": lambda _, a, b: a / b,
    "relax.isnan": lambda _, a: np.isnan(a),
    "relax.where": lambda _, c, a, b: np.asarray(np.where(c, a, b)),
}
