"""Collects the nodes and tensors of an integer graph while a model file is read.

Everything is int8 inside: a uint8 tensor ``q`` with zero point ``z`` is the int8 tensor ``q - 128`` with
zero point ``z - 128``, without loss. Element-wise functions of one int8 tensor are 256-entry tables;
chains of them are composed and reach the graph as one ``QLut`` where something needs the result in
memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.quantized.values import IDENTITY, Affine, Value, check_shape, identifier, quant_of
from mnv3c.ir import int_ops as q
from mnv3c.ir.count import count_classes
from mnv3c.ir.graph import Graph, Node, Quant, Shape, Tensor
from mnv3c.ir.verify import InvalidGraph, verify


class Collector:
    """Doors, tables and tensors. Methods raise ``Mnv3cError`` naming the tensor for what cannot be."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._tables: dict[tuple[str, bytes], str] = {}

    # ---- doors ----

    def input(self, name: str, shape: Shape, dtype: str, affine: Affine, quantized: str = "") -> Value:
        """A graph input of ``uint8``, ``int8`` or ``float32``; ``quantized`` names a float's int8 form."""
        check_shape(shape, name)
        if dtype == "uint8":
            raw = Quant((affine.scale,), (affine.zero_point + 128,))
            outer = self._tensor(name, shape, "uint8", raw)
            inner = self._tensor(self._free(f"{name}_int8"), shape, "int8", quant_of(affine))
            self._nodes.append(q.FlipSign(f"flip_{inner}", (outer,), (inner,)))
        elif dtype == "float32":
            outer = self._tensor(name, shape, "float32", None)
            inner = self._tensor(self._free(quantized or f"{name}_int8"), shape, "int8", quant_of(affine))
            inverse = float(np.float32(1.0 / affine.scale))
            self._nodes.append(
                q.Quantize(f"quantize_{inner}", (outer,), (inner,), (inverse,), (affine.zero_point,))
            )
        else:
            outer = inner = self._tensor(name, shape, "int8", quant_of(affine))
        self._inputs.append(outer)
        return Value(inner, inner, shape, affine)

    def output(self, value: Value, dtype: str, name: str) -> None:
        """Make ``value`` a graph output, as ``uint8``, ``int8`` or ``float32``."""
        stored = self.stored(value)
        if self._tensors[stored].dtype == "uint8":  # class numbers
            dtype = ""
        if dtype == "int8" and stored in self._inputs:
            copy = self._tensor(self._free(name), value.shape, "int8", quant_of(value.affine))
            self._nodes.append(q.QLut(f"lut_{copy}", (stored,), (copy,), IDENTITY))
            stored = copy
        if dtype == "uint8":
            raw = Quant((value.affine.scale,), (value.affine.zero_point + 128,))
            out = self._tensor(self._free(name), value.shape, "uint8", raw)
            self._nodes.append(q.FlipSign(f"flip_{out}", (stored,), (out,)))
        elif dtype == "float32":
            out = self._tensor(self._free(name), value.shape, "float32", None)
            scale, zero = (float(np.float32(value.affine.scale)),), (value.affine.zero_point,)
            self._nodes.append(q.Dequantize(f"dequantize_{out}", (stored,), (out,), scale, zero))
        else:
            out = stored
        if out in self._outputs:
            raise Mnv3cError("is an output twice", name)
        self._outputs.append(out)

    # ---- values in memory ----

    def stored(self, value: Value) -> str:
        """The tensor that holds ``value``; emits a ``QLut`` the first time one is needed."""
        if value.is_stored:
            return value.tensor
        key = (value.tensor, value.table.tobytes())
        if key not in self._tables:
            name = self._tensor(self._free(value.name), value.shape, "int8", quant_of(value.affine))
            self._nodes.append(q.QLut(f"lut_{name}", (value.tensor,), (name,), value.table))
            self._tables[key] = name
        return self._tables[key]

    def emit(
        self,
        node: Callable[..., Node],
        values: tuple[Value, ...],
        shape: Shape,
        affine: Affine,
        name: str,
        dtype: str = "int8",
        **fields: object,
    ) -> Value:
        """One ``node`` that reads ``values`` from memory and writes a tensor of that shape."""
        stored = tuple(self._stored_as_meant(v) for v in values)
        quant = Quant((1.0,)) if dtype == "uint8" else quant_of(affine)
        out = self._tensor(self._free(name), shape, dtype, quant)
        self._nodes.append(node(f"{out}_node", stored, (out,), **fields))
        return Value(out, out, shape, affine)

    def _stored_as_meant(self, value: Value) -> str:
        """As ``stored``, with a copy where the tensor's integers stand for other reals than the value's."""
        stored = self.stored(value)
        if self._tensors[stored].quant == quant_of(value.affine):
            return stored
        copy = self._tensor(self._free(value.name), value.shape, "int8", quant_of(value.affine))
        self._nodes.append(q.QLut(f"lut_{copy}", (stored,), (copy,), IDENTITY))
        return copy

    def table(self, value: Value, table: np.ndarray, affine: Affine, name: str) -> Value:
        """``table[value + 128]``; nothing is emitted yet."""
        composed = table[value.table.astype(np.int64) + 128].astype(np.int8)
        return dataclasses.replace(value, name=name, affine=affine, table=composed)

    # ---- the end ----

    def finish(self, name: str, meta: dict[str, object]) -> Graph:
        """The verified graph."""
        graph = Graph(
            name=identifier(name),
            nodes=tuple(self._nodes),
            tensors=self._tensors,
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            meta={**meta, "notes": list(self.notes)},
        )
        if not graph.outputs or not graph.inputs:
            raise Mnv3cError("has no input or no output", name)
        graph = graph.replace(meta={**graph.meta, "classes": count_classes(graph)})
        try:
            return verify(graph)
        except InvalidGraph as error:
            raise Mnv3cError(f"does not make a well-formed graph: {error}", name) from None

    # ---- helpers ----

    def _free(self, name: str) -> str:
        """``name``, with a number where it is taken."""
        free, i = name, 2
        while free in self._tensors:
            free, i = f"{name}_{i}", i + 1
        return free

    def _tensor(self, name: str, shape: Shape, dtype: str, quant: Quant | None) -> str:
        check_shape(shape, name)
        if name in self._tensors:
            raise Mnv3cError("two tensors of this name", name)
        self._tensors[name] = Tensor(name, shape, dtype, quant)
        return name
