"""Quantised PyTorch programs (PT2E: torchao, ExecuTorch) to the integer graph, with their own scales.

Such a program is float operators between ``quantize_per_tensor`` and ``dequantize_per_tensor``: the form
that ONNX calls QDQ. So each of its core operators is written as the ONNX node of the same meaning, and the
importer of QDQ models does the rest. As there, one rounding follows the exact sum, which is what PyTorch's
own float arithmetic gives but for the last bit of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.qdq.importer import import_qdq
from mnv3c.frontend.qdq.reader import InputInfo, Model, NodeInfo
from mnv3c.frontend.torch_export.archive import Contents
from mnv3c.frontend.torch_export.operators import arguments, describe
from mnv3c.frontend.torch_export.program import open_program
from mnv3c.ir.graph import Graph

Values = dict[str, Any]
_RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}
_DTYPES = {torch.int8: np.int8, torch.uint8: np.uint8, torch.int32: np.int32}


def load(path: Path, contents: Contents, *, round_weights: bool = False) -> Graph:
    """The integer graph of a file that ``archive`` has looked at.

    Raises:
        Mnv3cError: the program is damaged or not supported; names the node.
    """
    opened = open_program(path, contents)
    writer = _Writer(str(path), opened.constants)
    for node in opened.program.graph.nodes:
        if node.op == "call_function":
            writer.node(node)
    model = Model(
        path=str(path),
        nodes=tuple(writer.nodes),
        constants=writer.constants,
        inputs=(InputInfo(opened.input_name, opened.input_shape, "float32"),),
        outputs=opened.outputs,
        opset=17,
        source="torch",
        format="PyTorch, PT2E",
    )
    return import_qdq(model, round_weights=round_weights)


class _Writer:
    """Writes PyTorch's nodes as ONNX ones."""

    def __init__(self, path: str, constants: dict[str, np.ndarray]) -> None:
        self.path = path
        self.constants = constants
        self.nodes: list[NodeInfo] = []
        self.transposed: dict[str, str] = {}  # a weight that was turned, by the name of the result
        self.dequantized: set[str] = set()  # constants among the results

    def node(self, node: torch.fx.Node) -> None:
        place = f"{self.path}: {describe(node)}"
        name = str(node.target).removeprefix("aten.")
        if name not in _RULES:
            raise Mnv3cError("is not supported in a quantised program", place)
        try:
            _RULES[name](self, node, arguments(node), place)
        except (IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise Mnv3cError(f"is malformed: {type(error).__name__}: {error}", place) from None

    def emit(
        self, op: str, node: torch.fx.Node, inputs: Sequence[str], place: str, **attributes: Any
    ) -> None:
        self.nodes.append(NodeInfo(op, tuple(inputs), (node.name,), attributes, place))

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        """A new constant, from a number or from one that is there."""
        array = self.constants[value.name] if isinstance(value, torch.fx.Node) else np.asarray(value)
        self.constants[name] = np.ravel(array).astype(dtype)
        return name

    def operand(self, node: torch.fx.Node, value: Any) -> str:
        return (
            value.name
            if isinstance(value, torch.fx.Node)
            else self.constant(f"{node.name}_c", value, np.float32)
        )

    # ---- rules ----

    def quantization(self, node: torch.fx.Node, v: Values, place: str) -> None:
        """``quantize_per_tensor``, ``dequantize_per_tensor`` and ``dequantize_per_channel``."""
        x, dtype = v["input"].name, v["dtype"]
        constant = x in self.constants
        if dtype not in _DTYPES or (not constant and dtype not in _RANGES):
            raise Mnv3cError(f"quantises to {dtype}; int8 and uint8 are supported", place)
        if not constant and (v["quant_min"], v["quant_max"]) != _RANGES[dtype]:
            limits = f"{v['quant_min']} to {v['quant_max']}"
            raise Mnv3cError(f"uses {limits} alone; the whole range of {dtype} is supported", place)
        scales, zeros = ("scales", "zero_points") if "scales" in v else ("scale", "zero_point")
        scale = self.constant(f"{node.name}_scale", v[scales], np.float32)
        zero = self.constant(f"{node.name}_zero", v[zeros], _DTYPES[dtype])
        op = "QuantizeLinear" if "dequantize" not in str(node.target) else "DequantizeLinear"
        if constant:
            self.dequantized.add(node.name)
        self.emit(op, node, (x, scale, zero), place, axis=v.get("axis", 0))

    def convolution(self, node: torch.fx.Node, v: Values, place: str) -> None:
        inputs = [v["input"].name, v["weight"].name, *([v["bias"].name] if v["bias"] is not None else [])]
        window = {"strides": v["stride"], "pads": (*v["padding"], *v["padding"]), "dilations": v["dilation"]}
        self.emit("Conv", node, inputs, place, group=v["groups"], **window)

    def linear(self, node: torch.fx.Node, v: Values, place: str) -> None:
        addend = [v["self"].name] if "mat1" in v else []
        x, weight = (v["mat1"], v["mat2"]) if "mat1" in v else (v["self"], v["mat2"])
        turned = self.transposed.get(weight.name)
        self.emit(
            "Gemm", node, (x.name, turned or weight.name, *addend), place, transB=int(turned is not None)
        )

    def permute(self, node: torch.fx.Node, v: Values, place: str) -> None:
        if v["self"].name not in self.dequantized or list(v["dims"]) != [1, 0]:
            raise Mnv3cError("is supported for the weights of a linear layer alone", place)
        self.transposed[node.name] = v["self"].name

    def clip(self, node: torch.fx.Node, v: Values, place: str) -> None:
        bounds = {"min": v.get("min", v.get("min_val")), "max": v.get("max", v.get("max_val"))}
        if any(isinstance(b, torch.fx.Node) for b in bounds.values()):
            raise Mnv3cError("has bounds that are not constant", place)
        self.emit(
            "Clip", node, (v["self"].name,), place, **{k: b for k, b in bounds.items() if b is not None}
        )

    def mean(self, node: torch.fx.Node, v: Values, place: str) -> None:
        rank = len(v["self"].meta["val"].shape)
        if rank != 4 or v["dim"] is None:
            raise Mnv3cError("is supported over height and width alone", place)
        self.emit("ReduceMean", node, (v["self"].name,), place, axes=tuple(v["dim"]))

    def average_pool(self, node: torch.fx.Node, v: Values, place: str) -> None:
        padding = tuple(v["padding"]) * (2 if len(v["padding"]) == 2 else 4)
        kernel = v["kernel_size"]
        window = {"kernel_shape": kernel, "strides": v["stride"] or kernel, "pads": padding}
        self.emit("AveragePool", node, (v["self"].name,), place, **window)

    def adaptive_pool(self, node: torch.fx.Node, v: Values, place: str) -> None:
        if list(v["output_size"]) != [1, 1]:
            raise Mnv3cError("only adaptive pooling to 1x1 is supported", place)
        self.emit("GlobalAveragePool", node, (v["self"].name,), place)

    def binary(self, op: str, node: torch.fx.Node, v: Values, place: str) -> None:
        self.emit(op, node, (self.operand(node, v["self"]), self.operand(node, v["other"])), place)

    def unary(self, op: str, node: torch.fx.Node, v: Values, place: str) -> None:
        self.emit(op, node, (v["self"].name,), place)

    def softmax(self, node: torch.fx.Node, v: Values, place: str) -> None:
        if v["half_to_float"]:
            raise Mnv3cError("half_to_float is not supported", place)
        rank = len(v["self"].meta["val"].shape)
        self.emit("Softmax", node, (v["self"].name,), place, axis=v["dim"] % rank)

    def nothing(self, node: torch.fx.Node, v: Values, place: str) -> None:
        """Checks that PyTorch writes beside the network."""


Rule = Callable[[_Writer, torch.fx.Node, Values, str], None]


def _binary(op: str) -> Rule:
    return lambda writer, node, v, place: writer.binary(op, node, v, place)


def _unary(op: str) -> Rule:
    return lambda writer, node, v, place: writer.unary(op, node, v, place)


_QUANTIZATION = ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
_ARITHMETIC = ("add", "sub", "mul", "div")
_RULES: dict[str, Rule] = {
    **{f"quantized_decomposed.{n}.default": _Writer.quantization for n in _QUANTIZATION},
    **{f"quantized_decomposed.{n}.tensor": _Writer.quantization for n in _QUANTIZATION[:2]},
    "convolution.default": _Writer.convolution,
    **dict.fromkeys(("addmm.default", "mm.default"), _Writer.linear),
    "permute.default": _Writer.permute,
    **{f"{n}.default": _Writer.clip for n in ("clamp", "clamp_min", "clamp_max", "hardtanh")},
    "relu.default": _unary("Relu"),
    "sigmoid.default": _unary("Sigmoid"),
    "_softmax.default": _Writer.softmax,
    **{f"{n}.default": _unary("Identity") for n in ("clone", "alias", "_to_copy")},
    **{n: _unary("Reshape") for n in ("view.default", "squeeze.dims", "unsqueeze.default")},
    **{
        f"{n}.{kind}": _binary(n.title())
        for n in ("add", "sub", "mul", "div")
        for kind in ("Tensor", "Scalar")
    },
    "mean.dim": _Writer.mean,
    "avg_pool2d.default": _Writer.average_pool,
    "_adaptive_avg_pool2d.default": _Writer.adaptive_pool,
    "_assert_tensor_metadata.default": _Writer.nothing,
}
