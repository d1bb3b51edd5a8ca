"""One form of h-swish and hard sigmoid.

Before, in any order and grouping::

    lv1 = R.add(lv, 3); lv2 = R.clip(lv1, 0, 6); lv3 = R.multiply(lv, lv2); lv4 = R.multiply(lv3, 1/6)

After::

    lv1 = R.multiply(lv, 1/6); lv2 = R.add(lv1, 1/2); lv3 = R.clip(lv2, 0, 1); lv4 = R.multiply(lv, lv3)

Every tensor that comes from another by scalar steps alone is a formula, ``clip(a x + b, low, high)`` or
``k x clip(a y + b, low, high)``; the formulas are tracked and written down in one form where something
else reads them. What does not fit a hard sigmoid stays a scale, a shift and a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import relax

from mnv3c.frontend.relax_passes.straight_line import (
    Context,
    array,
    constant,
    is_constant,
    operator,
    rewrite,
)

# Exporters write 1/6 with five digits, so a gate ends at 1.00002; the excess moves into a factor behind it.
GATE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Clipped:
    """``clip(a * base + b, low, high)``."""

    base: Any
    a: float = 1.0
    b: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def linear(self) -> bool:
        return self.low == -math.inf and self.high == math.inf

    @property
    def gate(self) -> bool:
        """Whether it is a positive multiple of a hard sigmoid."""
        return self.low == 0.0 and 0.0 < self.high < math.inf and self.a > 0.0

    def scaled(self, k: float) -> Clipped:
        low, high = sorted((_times(self.low, k), _times(self.high, k)))
        return replace(self, a=self.a * k, b=self.b * k, low=low, high=high)

    def shifted(self, c: float) -> Clipped:
        return replace(self, b=self.b + c, low=self.low + c, high=self.high + c)

    def bounded(self, low: float, high: float) -> Clipped:
        return replace(self, low=min(max(self.low, low), high), high=min(max(self.high, low), high))


@dataclass(frozen=True)
class Gated:
    """``factor * x * gate``."""

    x: Any
    gate: Clipped
    factor: float = 1.0


Formula = Clipped | Gated


def activations(mod: Any) -> Any:
    """Recognise hard sigmoid and h-swish however they are written."""
    formulas: dict[Any, Formula] = {}
    written: dict[Any, Any] = {}

    def formula(expr: Any) -> Formula:
        return formulas[expr] if expr in formulas else Clipped(expr)

    def write(context: Context, expr: Any) -> Any:
        """The expression of the new program that holds the value of a formula."""
        if expr not in formulas:
            return expr
        if expr not in written:
            written[expr] = _write(context, formulas[expr], lambda inner: write(context, inner))
        return written[expr]

    def rule(context: Context, call: Any) -> Any | None:
        new = _step(call, formula)
        if new is not None:
            # The call stays as the name of the formula; nothing reads it, so the next pass drops it.
            name = context.emit(call)
            formulas[name] = new
            return name
        return relax.Call(call.op, [write(context, a) for a in call.args], call.attrs)

    return rewrite(mod, rule, finish=write)


def _step(call: Any, formula: Callable[[Any], Formula]) -> Formula | None:
    """The formula of a call's result, if it has one."""
    name = operator(call)
    if name == "relax.clip":
        inner = formula(call.args[0])
        low, high = (float(a.value) for a in call.args[1:])
        if not isinstance(inner, Clipped):
            return None
        return inner.bounded(low, high)
    if name not in ("relax.multiply", "relax.add"):
        return None
    if is_constant(call.args[1]):
        values = array(call.args[1])
        return (
            _scalar_step(name, formula(call.args[0]), float(values.reshape(()))) if values.size == 1 else None
        )
    if name == "relax.add":
        return None
    x, y = call.args
    return _product(x, formula(x), formula(y)) or _product(y, formula(y), formula(x))


def _scalar_step(name: str, inner: Formula, value: float) -> Formula | None:
    if isinstance(inner, Gated):
        return (
            replace(inner, factor=inner.factor * value) if name == "relax.multiply" and value != 0 else None
        )
    if name == "relax.add":
        return inner.shifted(value)
    return inner.scaled(value) if value != 0 else None


def _product(expr: Any, x: Formula, gate: Formula) -> Formula | None:
    """``expr``, whose formula is ``x``, times a gate."""
    if not (isinstance(gate, Clipped) and gate.gate):
        return None
    if isinstance(x, Clipped) and x.linear and x.b == 0.0:
        return Gated(x.base, gate, x.a)
    return Gated(expr, gate)


def _write(context: Context, f: Formula, write: Callable[[Any], Any]) -> Any:
    if isinstance(f, Gated):
        x = write(f.x)
        gate, excess = _hard_sigmoid(context, replace(f.gate, base=write(f.gate.base)))
        return _scale(context, context.emit(relax.op.multiply(x, gate)), f.factor * excess)
    f = replace(f, base=write(f.base))
    if f.gate and abs(f.high - 1.0) < GATE_TOLERANCE and (f.b != 0.0 or f.a != 1.0):
        gate, excess = _hard_sigmoid(context, f)
        return _scale(context, gate, excess)
    value = _scale(context, f.base, f.a)
    if f.b != 0.0:
        value = context.emit(relax.op.add(value, constant(f.b)))
    return value if f.linear else context.emit(relax.op.clip(value, f.low, f.high))


def _hard_sigmoid(context: Context, f: Clipped) -> tuple[Any, float]:
    """A gate that ends at exactly one, and the factor that is missing."""
    scaled = context.emit(relax.op.multiply(f.base, constant(f.a / f.high)))
    shifted = context.emit(relax.op.add(scaled, constant(f.b / f.high)))
    return context.emit(relax.op.clip(shifted, 0.0, 1.0)), f.high


def _scale(context: Context, value: Any, factor: float) -> Any:
    if abs(factor - 1.0) < 1e-6:
        return value
    return context.emit(relax.op.multiply(value, constant(factor)))


def _times(bound: float, k: float) -> float:
    return bound * k if math.isfinite(bound) else math.copysign(math.inf, bound * k)
