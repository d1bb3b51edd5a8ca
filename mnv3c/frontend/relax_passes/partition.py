"""Cut ``main`` into one composite function for each operator of the float graph, with dataflow patterns.

Before::

    lv1 = R.nn.conv2d(lv, w); lv2 = R.add(lv1, b); lv3 = R.clip(lv2, 0, inf)

After::

    lv2 = fused_conv2d(lv)        # attrs["Composite"] = "mnv3c.conv2d"
    lv3 = fused_clip(lv2)         # attrs["Composite"] = "mnv3c.clip"

The activations go first (``partition_activations``), which hides their slopes and offsets from the pass
that folds scales and shifts into convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.relax_passes.straight_line import array, bindings, operator

Pattern = tuple[str, Any, dict[str, Any], Callable[[Any], bool]]


def _accept(_: Any) -> bool:
    return True


def _one_value(match: Any) -> bool:
    """Slope and offset are scalars, and the clip is to [0, 1]."""
    found = match.annotated_expr
    low, high = (float(a.value) for a in found["clip"].args[1:])
    return (low, high) == (0.0, 1.0) and all(array(found[k]).size == 1 for k in ("slope", "offset"))


def _gate() -> tuple[Any, Any, dict[str, Any]]:
    x, slope, offset = wildcard(), is_const(), is_const()
    shifted = is_op("relax.add")(is_op("relax.multiply")(x, slope), offset)
    clip = is_op("relax.clip")(shifted, wildcard(), wildcard())
    return x, clip, {"slope": slope, "offset": offset, "clip": clip}


def _activation_patterns() -> list[Pattern]:
    x, clip, parts = _gate()
    swish = is_op("relax.multiply")(x, clip)
    _, sigmoid, sigmoid_parts = _gate()
    return [
        ("mnv3c.hard_swish", swish, parts, _one_value),
        ("mnv3c.hard_sigmoid", sigmoid, sigmoid_parts, _one_value),
    ]


def _operator_patterns() -> list[Pattern]:
    conv = is_op("relax.nn.conv2d")(wildcard(), is_const())
    return [
        ("mnv3c.conv2d", is_op("relax.add")(conv, is_const()), {}, _accept),
        ("mnv3c.clip", is_op("relax.clip")(wildcard(), wildcard(), wildcard()), {}, _accept),
        ("mnv3c.sigmoid", is_op("relax.sigmoid")(wildcard()), {}, _accept),
        ("mnv3c.global_average_pool", is_op("relax.mean")(wildcard()), {}, _accept),
        ("mnv3c.average_pool", is_op("relax.nn.avg_pool2d")(wildcard()), {}, _accept),
        ("mnv3c.max_pool", is_op("relax.nn.max_pool2d")(wildcard()), {}, _accept),
        ("mnv3c.add", is_op("relax.add")(wildcard(), wildcard()), {}, _accept),
        ("mnv3c.multiply", is_op("relax.multiply")(wildcard(), wildcard()), {}, _accept),
        ("mnv3c.softmax", is_op("relax.nn.softmax")(wildcard()), {}, _accept),
    ]


def partition_activations(mod: Any) -> Any:
    """Make composites of hard sigmoid and h-swish."""
    return _fuse(mod, _activation_patterns())


def partition_operators(mod: Any) -> Any:
    """Make composites of everything else but what moves pixels, and constants, which need none.

    Raises:
        Mnv3cError: names the first operator that no pattern takes.
    """
    from mnv3c.frontend.relax_passes.moves import RULES as moves

    mod = _fuse(mod, _operator_patterns())
    for var, value in bindings(mod):
        if operator(value) and operator(value) not in (*moves, "relax.reshape"):
            raise Mnv3cError(f"operator {operator(value)} is not supported here", var.name)
    return mod


def _fuse(mod: Any, patterns: list[Pattern]) -> Any:
    fusions = [relax.transform.FusionPattern(name, p, parts, check) for name, p, parts, check in patterns]
    return FuseOpsByPattern(fusions, bind_constants=True)(mod)
