"""From a checked ONNX model to a canonical one: static shapes, constants folded, one form of everything.

The canonical operators are Conv, BatchNormalization, AveragePool, MaxPool, GlobalAveragePool, ReduceMean,
Relu, Clip, Sigmoid, HardSigmoid, HardSwish, Add, Sub, Mul, Div, MatMul, Reshape, Transpose, Softmax, Resize,
ArgMax, Concat, Slice and ConvTranspose, with explicit padding, finite float32 constants and one output each,
in opset 17.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.onnx_model import axes, elementwise, fold, moves, windows
from mnv3c.frontend.onnx_model.graph import Constant, Known, Node, Output, Shape, Value
from mnv3c.frontend.onnx_model.read import describe, initializers, model_input, opset, printable

Handler = Callable[[Node, Output], Known | list[Known]]

HANDLERS: dict[str, Handler] = {
    "Add": fold.folded,
    "AveragePool": windows.average_pool,
    "BatchNormalization": windows.batch_norm,
    "Cast": fold.cast,
    "Clip": elementwise.clip,
    "ArgMax": moves.argmax,
    "Concat": moves.concat,
    "Constant": fold.constant,
    "Conv": windows.conv,
    "ConvTranspose": moves.conv_transpose,
    "Div": fold.folded,
    "Dropout": fold.identity,
    "Flatten": axes.flatten,
    "Gather": fold.gather,
    "Gemm": axes.gemm,
    "GlobalAveragePool": windows.global_average_pool,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.unary,
    "Identity": fold.identity,
    "MatMul": axes.matmul,
    "Max": elementwise.extremum,
    "MaxPool": windows.max_pool,
    "Min": elementwise.extremum,
    "Mul": fold.folded,
    "Neg": fold.folded,
    "Pad": windows.pad,
    "Pow": fold.folded,
    "Reciprocal": fold.folded,
    "ReduceMean": axes.reduce_mean,
    "Relu": elementwise.unary,
    "Reshape": axes.reshape,
    "Shape": fold.shape,
    "Sigmoid": elementwise.unary,
    "Resize": moves.resize,
    "Slice": moves.slice_,
    "Softmax": axes.softmax,
    "Sqrt": fold.folded,
    "Split": moves.split,
    "Squeeze": axes.squeeze,
    "Sub": fold.folded,
    "Sum": elementwise.arithmetic,
    "Transpose": axes.transpose,
    "Unsqueeze": axes.unsqueeze,
    "Upsample": moves.resize,
}


@dataclass(frozen=True)
class Canonical:
    """A rewritten model.

    Attributes:
        input_name, input_shape: of the one input, as in the file.
        results: the outputs.
        output: nodes and constants.
    """

    input_name: str
    input_shape: Shape
    results: tuple[Value, ...]
    output: Output

    def model(self) -> onnx.ModelProto:
        """The whole model."""
        return self.output.model("input", self.input_shape, self.results)

    def prefix(self, nodes: int) -> onnx.ModelProto:
        """A model of the first ``nodes`` nodes that gives the last one's output."""
        last = self.output.nodes[nodes - 1].output[0]
        return self.output.model("input", self.input_shape, [Value(last, self.output.shapes[last])], nodes)


def canonical(model: onnx.ModelProto, given: tuple[int, ...] | None) -> Canonical:
    """Check every node and write it in canonical form.

    Args:
        model: parsed and of a supported kind.
        given: shape of the input where the model leaves it open.

    Raises:
        Mnv3cError: names the node.
    """
    _check_operators(model)
    arrays = initializers(model)
    name, shape = model_input(model, given, arrays)
    known: dict[str, Known] = {n: Constant(a) for n, a in arrays.items()}
    known[name] = Value("input", shape)
    out = Output()
    version = opset(model)
    for proto in model.graph.node:
        operands = [_input(proto, known, i) for i in proto.input]
        if proto.op_type not in _TAKE_PADS:
            operands = [_padded(proto, out, i, version) for i in operands]
        node = Node(proto, operands, version)
        if not proto.output or not proto.output[0] or len(set(proto.output)) != len(proto.output):
            raise node.error("has no output of its own")
        again = next((o for o in proto.output if o and o in known), None)
        if again is not None:
            raise node.error(f"writes {printable(again)!r} a second time")
        result = HANDLERS[node.op](node, out)
        # What gives several results lists them; of the others only the first output is of interest.
        results = result if isinstance(result, list) else [result]
        known.update(zip(proto.output, results, strict=False))
    return Canonical(name, shape, _results(model, known, out), out)


# These add the zeros of a Pad in front to their own.
_TAKE_PADS = ("Conv", "Identity", "Dropout", "Shape", "Cast")


def _padded(proto: onnx.NodeProto, out: Output, known: Known | None, version: int) -> Known | None:
    """``known`` with the zeros that no convolution takes, as an operator.

    That is the mean of windows of one pixel, padding counted: TVM's importer makes a kernel of its own out
    of a ``Pad``, of which the amounts are hard to tell.
    """
    if not isinstance(known, Value) or not any(known.pads):
        return known
    one = [1, 1]
    fields = {"kernel_shape": one, "strides": one, "pads": known.pads, "count_include_pad": 1}
    return out.emit(Node(proto, [], version), "AveragePool", [known.name], known.shape, **fields)


def _check_operators(model: onnx.ModelProto) -> None:
    unsupported: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        plain = node.domain in ("", "ai.onnx")
        if not plain or node.op_type not in HANDLERS:
            label = printable(node.op_type if plain else f"{node.domain}.{node.op_type}")
            unsupported.setdefault(label, node)
    if unsupported:
        label, node = next(iter(unsupported.items()))
        more = f" (nor {', '.join(list(unsupported)[1:9])})" if len(unsupported) > 1 else ""
        listed = ", ".join(sorted(HANDLERS))
        raise Mnv3cError(f"operator {label} is not supported{more}; supported are {listed}", describe(node))


def _input(proto: onnx.NodeProto, known: dict[str, Known], name: str) -> Known | None:
    if name and name not in known:
        raise Mnv3cError(f"reads {printable(name)!r}, which nothing before it writes", describe(proto))
    return known[name] if name else None


def _results(model: onnx.ModelProto, known: dict[str, Known], out: Output) -> tuple[Value, ...]:
    if not model.graph.output:
        raise Mnv3cError("the model has no output", "model outputs")
    results = []
    for value in model.graph.output:
        result = known.get(value.name)
        place = f"output {printable(value.name)!r}"
        if result is None:
            raise Mnv3cError("no node writes it", place)
        if isinstance(result, Constant) or result.name == "input":
            raise Mnv3cError("does not depend on the input through any operator", place)
        if any(result.pads):
            padded = _padded(model.graph.node[-1], out, result, opset(model))
            assert isinstance(padded, Value)
            result = padded
        if result in results:
            raise Mnv3cError("gives the same tensor as another output", place)
        results.append(result)
    return tuple(results)
