"""Damaged ONNX files from a seed: bytes flipped, files cut, and models changed field by field."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

NUMBERS = (0, 1, 2, 3, 5, 7, -1, -2, 255, 65536, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REALS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"), 0.2)
OPERATORS = (
    "Conv",
    "Relu",
    "Clip",
    "Add",
    "Mul",
    "Div",
    "Sub",
    "Gemm",
    "MatMul",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Softmax",
    "ReduceMean",
    "GlobalAveragePool",
    "AveragePool",
    "MaxPool",
    "BatchNormalization",
    "HardSwish",
    "HardSigmoid",
    "Sigmoid",
    "Pad",
    "Shape",
    "Slice",
    "Concat",
    "Gather",
    "Cast",
    "Constant",
    "Identity",
    "Dropout",
    "Max",
    "Min",
    "Sum",
    "Pow",
    "Sqrt",
    "If",
    "QuantizeLinear",
    "Resize",
    "",
)


ATTRIBUTES = (
    *("axis", "axes", "pads", "strides", "dilations", "group", "kernel_shape", "auto_pad", "keepdims"),
    *("alpha", "beta", "transA", "transB", "epsilon", "mode", "to", "perm", "min", "max", "ceil_mode"),
)


def seed_model() -> onnx.ModelProto:
    """A network of a few kilobytes with every kind of node that an exporter writes for MobileNetV3."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    constants = {
        "mean": np.asarray([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1),
        "w0": normal(4, 3, 3, 3),
        "gamma": np.ones(4, np.float32),
        "beta": normal(4),
        "average": normal(4),
        "variance": np.full(4, 0.7, np.float32),
        "three": np.float32(3),
        "zero": np.float32(0),
        "six": np.float32(6),
        "dw": normal(4, 1, 3, 3),
        "squeeze": normal(2, 4, 1, 1),
        "excite": normal(4, 2, 1, 1),
        "project": normal(4, 4, 1, 1),
        "bias": normal(4),
        "pads": np.asarray([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        "w1": normal(6, 4, 3, 3),
        "from": np.asarray([0], np.int64),
        "to": np.asarray([1], np.int64),
        "rest": np.asarray([-1], np.int64),
        "matrix": normal(6, 5),
        "offset": normal(5),
    }
    plan: list[tuple[str, list[str], str, dict[str, object]]] = [
        ("Sub", ["x", "mean"], "n0", {}),
        ("Conv", ["n0", "w0"], "c0", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("BatchNormalization", ["c0", "gamma", "beta", "average", "variance"], "b0", {"epsilon": 1e-3}),
        ("Add", ["b0", "three"], "a0", {}),
        ("Clip", ["a0", "zero", "six"], "r0", {}),
        ("Mul", ["b0", "r0"], "m0", {}),
        ("Div", ["m0", "six"], "h0", {}),
        ("Conv", ["h0", "dw"], "d0", {"group": 4, "pads": [1, 1, 1, 1]}),
        ("HardSwish", ["d0"], "h1", {}),
        ("GlobalAveragePool", ["h1"], "p0", {}),
        ("Conv", ["p0", "squeeze"], "s0", {}),
        ("Relu", ["s0"], "s1", {}),
        ("Conv", ["s1", "excite"], "s2", {}),
        ("HardSigmoid", ["s2"], "g0", {"alpha": 0.2, "beta": 0.5}),
        ("Mul", ["h1", "g0"], "m1", {}),
        ("Conv", ["m1", "project", "bias"], "o0", {"kernel_shape": [1, 1], "dilations": [1, 1]}),
        ("Add", ["o0", "h0"], "o1", {}),
        ("Pad", ["o1", "pads"], "q0", {"mode": "constant"}),
        ("Conv", ["q0", "w1"], "o2", {"strides": [2, 2]}),
        ("MaxPool", ["o2"], "o3", {"kernel_shape": [2, 2], "strides": [1, 1]}),
        ("ReduceMean", ["o3"], "p1", {"axes": [2, 3], "keepdims": 1}),
        ("Shape", ["p1"], "z0", {}),
        ("Slice", ["z0", "from", "to"], "z1", {}),
        ("Concat", ["z1", "rest"], "z2", {"axis": 0}),
        ("Reshape", ["p1", "z2"], "f0", {}),
        ("Dropout", ["f0"], "f1", {}),
        ("Gemm", ["f1", "matrix", "offset"], "l0", {"alpha": 1.0, "transB": 0}),
        ("Softmax", ["l0"], "y", {"axis": 1}),
    ]
    nodes = [helper.make_node(op, i, [o], name=f"{op}_{o}", **a) for op, i, o, a in plan]
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mutant(index: int, seed: int = 0) -> bytes:
    """The ``index``-th damaged file."""
    rng = random.Random(f"{seed} {index}")
    model = seed_model()
    if index % 5 == 0:
        return _flip(bytearray(model.SerializeToString()), rng)
    if index % 5 == 1 and index % 3 == 0:
        data = model.SerializeToString()
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(model, rng)
    try:
        return model.SerializeToString()
    except ValueError:  # protobuf refuses to write some of what it holds
        return _flip(bytearray(seed_model().SerializeToString()), rng)


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 2, 8, 64))):
        position = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[position] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del data[position : position + rng.randrange(1, 16)]
        else:
            data[position:position] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 16)))
        if not data:
            break
    return bytes(data)


def _node(model: onnx.ModelProto, rng: random.Random) -> NodeProto:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def _names(model: onnx.ModelProto) -> list[str]:
    written = [o for n in model.graph.node for o in n.output]
    return ["", "x", "nowhere", *written, *(t.name for t in model.graph.initializer)]


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice(OPERATORS)


def _domain(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).domain = rng.choice(("com.microsoft", "ai.onnx", "ai.onnx.ml", "\x00"))


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = node.input if rng.random() < 0.8 else node.output
    if names:
        names[rng.randrange(len(names))] = rng.choice(_names(model))
    else:
        names.append(rng.choice(_names(model)))


def _more_or_fewer_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = node.input if rng.random() < 0.7 else node.output
    if rng.random() < 0.5 and names:
        del names[rng.randrange(len(names))]
    else:
        names.append(rng.choice(_names(model)))


def _drop_node(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _repeat_or_shuffle(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    if rng.random() < 0.5:
        rng.shuffle(nodes)
    else:
        nodes.insert(rng.randrange(len(nodes) + 1), rng.choice(nodes) if nodes else NodeProto())
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    candidates = [n for n in model.graph.node if n.attribute]
    node = rng.choice(candidates) if candidates else _node(model, rng)
    if not node.attribute:
        node.attribute.add(name="axis", type=AttributeProto.INT, i=rng.choice(NUMBERS))
        return
    attribute = rng.choice(node.attribute)
    kind = rng.randrange(6)
    if kind == 0:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif kind == 1:
        attribute.i = rng.choice(NUMBERS)
    elif kind == 2:
        attribute.f = rng.choice(REALS)
    elif kind == 3 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    elif kind == 4:
        attribute.ints.extend(rng.choice(NUMBERS) for _ in range(rng.randrange(1, 4)))
    else:
        attribute.s = bytes(rng.randrange(256) for _ in range(rng.randrange(12)))


def _new_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    name = rng.choice(ATTRIBUTES)
    node = _node(model, rng)
    kind = rng.randrange(4)
    if kind == 0:
        node.attribute.add(name=name, type=AttributeProto.INT, i=rng.choice(NUMBERS))
    elif kind == 1:
        node.attribute.add(name=name, type=AttributeProto.FLOAT, f=rng.choice(REALS))
    elif kind == 2:
        ints = [rng.choice(NUMBERS) for _ in range(rng.randrange(6))]
        node.attribute.add(name=name, type=AttributeProto.INTS, ints=ints)
    else:
        node.attribute.add(name=name, type=AttributeProto.STRING, s=rng.choice((b"", b"SAME_LOWER", b"\xff")))


def _initialiser(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(7)
    if kind == 0:
        tensor.dims.append(rng.choice(NUMBERS))
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif kind == 2:
        tensor.data_type = rng.choice(list(TensorProto.DataType.values()))
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 4:
        special = np.asarray(rng.choice(REALS), np.float32).tobytes()
        tensor.raw_data = special + tensor.raw_data[4:]
    elif kind == 5:
        tensor.name = rng.choice(_names(model))
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("/etc/hostname", "../x", "")))


def _integers(model: onnx.ModelProto, rng: random.Random) -> None:
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if tensors:
        tensor = rng.choice(tensors)
        values = [rng.choice(NUMBERS) for _ in range(max(1, len(tensor.raw_data) // 8))]
        tensor.raw_data = np.asarray(values, np.int64).tobytes()


def _drop_initialiser(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def _shape(model: onnx.ModelProto, rng: random.Random) -> None:
    values = model.graph.input if rng.random() < 0.8 else model.graph.output
    if not values:
        return
    shape = values[0].type.tensor_type.shape
    kind = rng.randrange(5)
    if kind == 0 and shape.dim:
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice(NUMBERS)
    elif kind == 1 and shape.dim:
        shape.dim[rng.randrange(len(shape.dim))].dim_param = rng.choice(("N", "?", ""))
    elif kind == 2:
        shape.dim.add(dim_value=rng.choice(NUMBERS))
    elif kind == 3 and shape.dim:
        del shape.dim[rng.randrange(len(shape.dim))]
    else:
        values[0].type.tensor_type.elem_type = rng.randrange(24)


def _interface(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        del model.graph.input[:]
    elif kind == 1:
        del model.graph.output[:]
    elif kind == 2:
        model.graph.input.add(name=rng.choice(_names(model)))
    elif kind == 3:
        model.graph.output.add(name=rng.choice(_names(model)))
    elif model.graph.output:
        model.graph.output[0].name = rng.choice(_names(model))


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        model.opset_import[0].version = rng.choice((*NUMBERS, 7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 22))
    else:
        model.ir_version = rng.choice(NUMBERS)


def _names_of_nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).name = rng.choice(("", "\n\n", "x" * 5000, "\x00", "name with spaces"))


MUTATIONS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _operator,
    _operator,
    _domain,
    _rewire,
    _rewire,
    _more_or_fewer_inputs,
    _drop_node,
    _repeat_or_shuffle,
    _attribute,
    _attribute,
    _attribute,
    _new_attribute,
    _new_attribute,
    _initialiser,
    _initialiser,
    _integers,
    _drop_initialiser,
    _shape,
    _shape,
    _interface,
    _versions,
    _names_of_nodes,
)
