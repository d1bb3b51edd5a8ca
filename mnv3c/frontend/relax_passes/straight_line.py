"""Rebuilding a Relax module whose ``main`` is a straight line of operator calls.

An imported network has no control flow, so a pass is one function that sees every call once, in order,
with its operands already rewritten. That is less than ``PyExprMutator`` offers and is all that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mnv3c.errors import Mnv3cError

Rule = Callable[["Context", Any], Any]


class Context:
    """What a rule may ask about the program and add to it while ``main`` is rebuilt.

    Attributes:
        attributes: function attributes that the pass wants on the new ``main``.
        old, old_variable: the call under rewriting and its variable, as in the old program.
    """

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._definitions: dict[Any, Any] = {}
        self._uses: dict[Any, int] = {}
        self.attributes: dict[str, Any] = {}
        self.current = ""
        self.old: Any = None
        self.old_variable: Any = None

    def emit(self, value: Any, name: str = "") -> Any:
        """Bind ``value`` to a new variable, with type inference; a variable or constant is returned as is."""
        if not isinstance(value, relax.Call | relax.TupleGetItem):
            return value
        var = self._builder.emit(value, name_hint=name or self.current)
        self._definitions[var] = value
        return var

    def definition(self, expr: Any) -> Any:
        """The call that defines a variable of the new program; ``None`` for parameters and constants."""
        return self._definitions.get(expr) if isinstance(expr, relax.Var) else None

    def defined_by(self, expr: Any, *operators: str) -> Any:
        """The definition of ``expr`` if it is a call of one of ``operators``, else ``None``."""
        call = self.definition(expr)
        return call if call is not None and operator(call) in operators else None

    def used_once(self, expr: Any) -> bool:
        """Whether exactly one call (or the output) of the old program reads ``expr``.

        Variables that a rule made inside a chain count as used once, by the rule's own next call.
        """
        return self._uses.get(expr, 1) == 1

    def counted(self, expr: Any) -> bool:
        return isinstance(expr, relax.Var) and expr in self._uses

    def add_uses(self, expr: Any, count: int) -> None:
        if isinstance(expr, relax.Var) and (count or expr in self._uses):
            self._uses[expr] = self._uses.get(expr, 0) + count


def operator(expr: Any) -> str:
    """Name of the operator that ``expr`` calls, such as ``relax.nn.conv2d``; empty if it is no such call."""
    return expr.op.name if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def shape_of(expr: Any) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    dims = expr.ty.shape
    if dims is None or not all(hasattr(d, "value") for d in dims):
        raise Mnv3cError("a tensor of unknown shape; fix the input shape", str(getattr(expr, "name", "")))
    return tuple(int(d.value) for d in dims)


def is_constant(expr: Any) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)


def array(expr: Any) -> np.ndarray:
    """Value of a constant."""
    return np.asarray(expr.value.numpy())


def constant(values: np.ndarray | float) -> Any:
    """A float32 constant."""
    return relax.const(np.asarray(values, np.float32, order="C"), "float32")


def bindings(mod: Any) -> Iterator[tuple[Any, Any]]:
    """``(variable, value)`` of ``main`` in execution order; without those that only rename another."""
    renamed = _renamed(mod)
    for block in _blocks(mod):
        for binding in block.bindings:
            if binding.var not in renamed:
                yield binding.var, _substitute(binding.value, renamed) if renamed else binding.value


def result(mod: Any) -> list[Any]:
    """The variables that ``main`` returns."""
    body = mod["main"].body
    value = body.body if isinstance(body, relax.SeqExpr) else body
    renamed = _renamed(mod)
    value = renamed.get(value, value) if isinstance(value, relax.Var) else value
    fields = list(value.fields) if isinstance(value, relax.Tuple) else [value]
    return [renamed.get(f, f) for f in fields]


def _blocks(mod: Any) -> list[Any]:
    body = mod["main"].body
    return list(body.blocks) if isinstance(body, relax.SeqExpr) else []


def _renamed(mod: Any) -> dict[Any, Any]:
    """Variables that only stand for another, or for the tuple of outputs."""
    renamed: dict[Any, Any] = {}
    for block in _blocks(mod):
        for binding in block.bindings:
            if isinstance(binding.value, relax.Var):
                renamed[binding.var] = renamed.get(binding.value, binding.value)
            elif isinstance(binding.value, relax.Tuple):
                renamed[binding.var] = binding.value
    return renamed


def operands(value: Any) -> list[Any]:
    """Every variable that a bound value reads, with repetitions."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.TupleGetItem):
        return operands(value.tuple_value)
    if isinstance(value, relax.Tuple):
        return [v for field in value.fields for v in operands(field)]
    if isinstance(value, relax.Call):
        return [v for arg in value.args for v in operands(arg)]
    return []


def rewrite(
    mod: Any,
    rule: Rule,
    *,
    new_parameter: Callable[[Any], Any] | None = None,
    finish: Callable[[Context, Any], Any] | None = None,
) -> Any:
    """Rebuild ``main`` with ``rule`` applied to each call, then drop what nothing reads.

    Args:
        rule: ``(context, call)`` to the expression that replaces the call, or ``None`` to keep it. Its
            operands are expressions of the new program.
        finish: applied to each output at the end.
        new_parameter: gives the parameter that replaces one of the old ``main``.
    """
    program = _alive(list(bindings(mod)), result(mod))
    outputs = result(mod)
    counts: dict[Any, int] = {}
    for read in (*(v for _, value in program for v in operands(value)), *outputs):
        counts[read] = counts.get(read, 0) + 1
    parameters = list(mod["main"].params)
    fresh = [new_parameter(p) if new_parameter else p for p in parameters]
    builder = relax.BlockBuilder()
    context = Context(builder)
    new: dict[Any, Any] = dict(zip(parameters, fresh, strict=True))
    for old, param in new.items():
        context.add_uses(param, counts.get(old, 0))
    failure: Exception | None = None
    with builder.function("main", fresh):
        with builder.dataflow():
            results = fresh
            try:
                _replay(program, rule, context, new, counts)
                results = [_substitute(v, new) for v in outputs]
                results = [finish(context, v) for v in results] if finish else results
            except Exception as error:  # raised again below: a builder left open warns on stderr
                failure = error
            out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(out)
    if failure is not None:
        raise failure
    main = builder.get()["main"]
    keep = dict(mod["main"].attrs or {}) | context.attributes
    for key, value in keep.items():
        main = main.with_attr(key, value)
    functions = {var: main if var.name_hint == "main" else f for var, f in mod.functions_items()}
    return tvm.IRModule(functions)


def _replay(
    program: list[tuple[Any, Any]], rule: Rule, context: Context, new: dict[Any, Any], counts: dict[Any, int]
) -> None:
    for var, old in program:
        context.current, context.old, context.old_variable = var.name, old, var
        value = _substitute(old, new)
        replaced = rule(context, value)
        value = value if replaced is None else replaced
        # An operator that became its own operand no longer reads it.
        context.add_uses(value, -1 if context.counted(value) else 0)
        new[var] = context.emit(value)
        context.add_uses(new[var], counts.get(var, 0))


def _alive(program: list[tuple[Any, Any]], outputs: list[Any]) -> list[tuple[Any, Any]]:
    """The bindings that the outputs depend on."""
    live = set(outputs)
    kept = []
    for var, value in reversed(program):
        if var in live:
            live.update(operands(value))
            kept.append((var, value))
    return kept[::-1]


def _substitute(expr: Any, new: dict[Any, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return new.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substitute(f, new) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_substitute(expr.tuple_value, new), expr.index)
    if isinstance(expr, relax.Call):
        args = [_substitute(a, new) for a in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr
