"""Take the model's own input normalisation off the graph.

Before::

    lv = R.multiply(input, 2); lv1 = R.subtract(lv, 1); lv2 = R.nn.conv2d(lv1, w, padding=[1, 1, 1, 1])

After::

    lv2 = R.nn.conv2d(input, w, padding=[1, 1, 1, 1])
    # main: attrs["mnv3c.input_scale"] = [2, 2, 2], attrs["mnv3c.input_shift"] = [-1, -1, -1]

Folding it into the convolution instead would be wrong at the border: the convolution pads with zero
*after* normalisation. Who feeds the network applies (or quantises with) the attributes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    bindings,
    is_constant,
    operands,
    operator,
    result,
    rewrite,
    shape_of,
)


def input_affine(mod: Any) -> Any:
    """Move multiplications and additions by constants from the input into function attributes."""
    (parameter,) = mod["main"].params
    channels = shape_of(parameter)[1]
    scale, shift = np.ones(channels), np.zeros(channels)
    users: dict[Any, list[tuple[Any, Any]]] = {}
    for var, value in bindings(mod):
        for v in operands(value):
            users.setdefault(v, []).append((var, value))
    outputs = result(mod)
    stripped: set[Any] = set()
    here = parameter
    while here not in outputs and len(users.get(here, [])) == 1:
        var, call = users[here][0]
        if operator(call) not in ("relax.multiply", "relax.add") or not is_constant(call.args[1]):
            break
        values = np.broadcast_to(array(call.args[1]).astype(np.float64).reshape(-1), channels)
        if operator(call) == "relax.multiply" and not bool((values != 0).all()):
            break
        if operator(call) == "relax.multiply":
            scale, shift = scale * values, shift * values
        else:
            shift = shift + values
        stripped.add(var)
        here = var

    def rule(context: Context, call: Any) -> Any | None:
        context.attributes["mnv3c.input_scale"] = [float(s) for s in scale]
        context.attributes["mnv3c.input_shift"] = [float(s) for s in shift]
        return call.args[0] if context.old_variable in stripped else None

    return rewrite(mod, rule)
