"""The operators of PyTorch that may be in a network, after ``run_decompositions`` (core ATen).

TVM's importer drops what it does not know of an operator (``alpha`` of an addition, the divisor of a
pool), so every operator's arguments are checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mnv3c.errors import Mnv3cError

Arguments = Mapping[str, Any]


def check_program(program: torch.export.ExportedProgram, path: str) -> None:
    """Refuse what is not a network of float32 tensors from one image to tensors.

    Args:
        program: decomposed.
        path: of the file, for messages.

    Raises:
        Mnv3cError: names the module of the network, and its operator.
    """
    kinds = torch.export.graph_signature.OutputKind
    for output in program.graph_signature.output_specs:
        if output.kind is not kinds.USER_OUTPUT:
            raise Mnv3cError(
                "changes its buffers, as in training; call eval() on the network before exporting it",
                path,
            )
    for node in program.graph.nodes:
        if node.op == "call_function":
            _check_node(node, path)
        elif node.op not in ("placeholder", "output"):
            raise Mnv3cError(f"{node.op} is not supported", f"{path}: {describe(node)}")


def describe(node: torch.fx.Node) -> str:
    """How messages name a node: the module of the network that it comes from, and its operator there."""
    source = (node.meta.get("from_node") or [None])[-1]
    name, operator = (source.name, source.target) if source is not None else (node.name, str(node.target))
    modules = [module for module, _ in (node.meta.get("nn_module_stack") or {}).values()]
    inside = f" in {modules[-1]}" if modules and modules[-1] else ""
    return f"node {name!r} ({operator}){inside}"


def _check_node(node: torch.fx.Node, path: str) -> None:
    place = f"{path}: {describe(node)}"
    name = str(node.target).removeprefix("aten.")
    if name.startswith("<built-in function getitem>"):
        if node.args[1] != 0:
            raise Mnv3cError("only the first result of an operator is supported", place)
        return
    if name not in OPERATORS:
        hidden = ("_assert", "quantized")
        listed = ", ".join(sorted({n.partition(".")[0] for n in OPERATORS if not n.startswith(hidden)}))
        raise Mnv3cError(f"is not supported; of PyTorch's core operators, these are: {listed}", place)
    try:
        OPERATORS[name](arguments(node), place)
    except (IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Mnv3cError(f"is malformed: {type(error).__name__}: {error}", place) from None


def arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Every argument of a call by its name, with defaults."""
    target: Any = node.target
    schema = target._schema.arguments
    values: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
    return values | dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)


def _any(_: Arguments, __: str) -> None:
    """Whatever its arguments are, TVM's importer or the passes look at them."""


def _is(**required: Any) -> Callable[[Arguments, str], None]:
    """Arguments that must have these values."""

    def check(values: Arguments, place: str) -> None:
        for name, value in required.items():
            if values.get(name, value) != value:
                raise Mnv3cError(f"{name} of {values[name]} is not supported", place)

    return check


def _padding(values: Arguments, place: str) -> None:
    if values["value"] != 0 or any(p < 0 for p in values["pad"]) or any(values["pad"][4:]):
        raise Mnv3cError("only padding of height and width with zero is supported", place)


def _nearest(values: Arguments, place: str) -> None:
    """TVM rounds to the nearest pixel and PyTorch down, which is the same for whole factors."""
    sizes = values["input"].meta["val"].shape[2:]
    wanted = values["output_size"] or [s * f for s, f in zip(sizes, values["scale_factors"], strict=True)]
    if any(new % old for new, old in zip(wanted, sizes, strict=True)):
        raise Mnv3cError(f"from {list(sizes)} to {list(wanted)}: whole factors alone are supported", place)


def _convolution(values: Arguments, place: str) -> None:
    if len(values["stride"]) != 2:
        raise Mnv3cError("only convolutions over height and width are supported", place)


OPERATORS: Mapping[str, Callable[[Arguments, str], None]] = {
    "convolution.default": _convolution,
    "_native_batch_norm_legit_no_training.default": _any,
    "addmm.default": _is(alpha=1, beta=1),
    "mm.default": _any,
    "relu.default": _any,
    "hardtanh.default": _any,
    "clamp.default": _any,
    "clamp_min.default": _any,
    "clamp_max.default": _any,
    "sigmoid.default": _any,
    "_softmax.default": _is(half_to_float=False),
    "add.Tensor": _is(alpha=1),
    "add.Scalar": _is(alpha=1),
    "sub.Tensor": _is(alpha=1),
    "sub.Scalar": _is(alpha=1),
    "mul.Tensor": _any,
    "mul.Scalar": _any,
    "div.Tensor": _any,
    "div.Scalar": _any,
    "constant_pad_nd.default": _padding,
    "mean.dim": _is(dtype=None),
    "_adaptive_avg_pool2d.default": _any,
    "avg_pool2d.default": _is(divisor_override=None, ceil_mode=False),
    "max_pool2d_with_indices.default": _is(ceil_mode=False, dilation=[1, 1]),
    "upsample_bilinear2d.vec": _any,
    "upsample_nearest2d.vec": _nearest,
    "cat.default": _any,
    "argmax.default": _any,
    "slice.Tensor": _any,
    "view.default": _any,
    "permute.default": _any,
    "squeeze.dims": _any,
    "unsqueeze.default": _any,
    "clone.default": _any,
    "alias.default": _any,
    "_assert_tensor_metadata.default": _any,
    "_to_copy.default": _is(dtype=torch.float32),
    # Of quantised programs.
    "quantized_decomposed.quantize_per_tensor.default": _any,
    "quantized_decomposed.quantize_per_tensor.tensor": _any,
    "quantized_decomposed.dequantize_per_tensor.default": _any,
    "quantized_decomposed.dequantize_per_tensor.tensor": _any,
    "quantized_decomposed.dequantize_per_channel.default": _any,
}
