"""Bad ONNX input ends in one clear line that names the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mnv3c.errors import Mnv3cError
from mnv3c.frontend import load
from tests.frontend.onnx_models import CHANNELS, CONV, convolution, model, node


def refused(proto: onnx.ModelProto | bytes, folder: Path, **options: object) -> str:
    path = folder / "bad.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(Mnv3cError) as caught:
        load(str(path), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError, match=r"nothing\.onnx: no such file"):
        load(str(tmp_path / "nothing.onnx"))
    with pytest.raises(Mnv3cError, match=r"folder"):
        (tmp_path / "a_folder").mkdir()
        load(str(tmp_path / "a_folder"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"not a model at all", "not an ONNX model"),
        (b"\x08\x08", "no graph"),
        (bytes(range(256)) * 8, "not an ONNX model"),
    ],
)
def test_not_a_model(content: bytes, says: str, tmp_path: Path) -> None:
    assert says in refused(content, tmp_path)


def test_truncated(tmp_path: Path) -> None:
    data = model([CONV, node("Relu", ["c"], "y")], convolution()).SerializeToString()
    assert "truncated" in refused(data[: len(data) // 2], tmp_path)


def test_external_data(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution())
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    proto.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    message = refused(proto, tmp_path)
    assert "separate file" in message and "'w'" in message


def test_dynamic_dimension_is_named(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution(), shape=("N", 3, 12, "width"))
    message = refused(proto, tmp_path)
    assert "input 'x'" in message and "dimension 3 (width) is dynamic" in message
    path = tmp_path / "bad.onnx"
    for shape in ((3, 12, 20), (1, 3, 12, 20)):
        assert load(str(path), input_shape=shape).tensor("input").shape == (12, 20, 3)
    assert "dimension 2 is 12" in refused(proto, tmp_path, input_shape=(3, 13, 20))
    assert "4 dimensions" in refused(proto, tmp_path, input_shape=(13, 20))


def test_batch(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution(), shape=(8, 3, 12, 12))
    assert "batch of 8" in refused(proto, tmp_path)


def test_unsupported_operator_is_named_with_its_node(tmp_path: Path) -> None:
    message = refused(
        model([CONV, node("Erf", ["c"], "e"), node("Tan", ["e"], "y")], convolution()), tmp_path
    )
    assert "operator Erf is not supported (nor Tan)" in message
    assert "node 'Erf_e'" in message
    assert "supported are Add, ArgMax, AveragePool" in message


def test_operator_of_another_domain(tmp_path: Path) -> None:
    odd = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="n", domain="com.example")
    assert "com.example.Conv" in refused(model([odd], convolution()), tmp_path)


@pytest.mark.parametrize("op", ["QuantizeLinear", "QLinearConv", "ConvInteger"])
def test_quantised_models(op: str, tmp_path: Path) -> None:
    assert "quantised" in refused(model([node(op, ["x", "w"], "y")], convolution()), tmp_path)


@pytest.mark.parametrize(("opset", "says"), [(3, "opset 3"), (99, "opset 99")])
def test_opset(opset: int, says: str, tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution(), opset=17)
    proto.opset_import[0].version = opset
    assert says in refused(proto, tmp_path)


def test_several_inputs_and_none(tmp_path: Path) -> None:
    proto = model([node("Add", ["x", "z"], "y")], {})
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 12, 12]))
    assert "has 2 ('x', 'z')" in refused(proto, tmp_path)
    del proto.graph.input[:]
    assert "has 0 (none)" in refused(proto, tmp_path)


def test_input_type_and_rank(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution())
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert "is UINT8" in refused(proto, tmp_path)
    message = refused(model([node("Relu", ["x"], "y")], {}, shape=(1, 7)), tmp_path)
    assert "shape [1, 7] is not that of one image" in message


BAD_NODES = {
    "weights do not fit": ([node("Conv", ["x", "w", "b"], "y", group=2)], "2 groups do not fit 3 input"),
    "strides": ([node("Conv", ["x", "w", "b"], "y", strides=[0, 1])], "strides is [0, 1]"),
    "too many strides": ([node("Conv", ["x", "w", "b"], "y", strides=[1, 1, 1])], "strides is [1, 1, 1]"),
    "pads": ([node("Conv", ["x", "w", "b"], "y", pads=[-1, 0, 0, 0])], "pads is [-1, 0, 0, 0]"),
    "huge pads": ([node("Conv", ["x", "w", "b"], "y", pads=[30000] * 4)], "too large"),
    "kernel": ([node("Conv", ["x", "w", "b"], "y", kernel_shape=[5, 5])], "kernel_shape does not fit"),
    "wide kernel": ([node("Conv", ["x", "w", "b"], "y", dilations=[9, 9])], "output of shape [1, 6, 0, 0]"),
    "auto_pad": ([node("Conv", ["x", "w", "b"], "y", auto_pad="SAME")], "auto_pad 'SAME' is unknown"),
    "attribute type": ([node("Conv", ["x", "w", "b"], "y", strides=1.5)], "strides is of a wrong type"),
    "bias": ([node("Conv", ["x", "w", "w"], "y")], "bias of shape [6, 3, 3, 3] for 6 outputs"),
    "unknown tensor": ([node("Relu", ["nowhere"], "y")], "reads 'nowhere'"),
    "no input": ([node("Relu", [], "y")], "input 0 is missing"),
    "broadcast": ([CONV, node("Add", ["c", "w"], "y")], "operands of shapes"),
    "two tensors": ([CONV, node("Relu", ["c"], "r"), node("Sub", ["r", "c"], "y")], "of two tensors"),
    "reshape": ([CONV, node("Reshape", ["c", "shape"], "y")], "cannot turn [1, 6, 12, 12] into [7, 5]"),
    "mean": ([CONV, node("ReduceMean", ["c"], "y", axes=[1])], "over height and width"),
    "axis": ([CONV, node("ReduceMean", ["c"], "y", axes=[4])], "axis 4 of a tensor with 4"),
    "matmul": ([CONV, node("MatMul", ["c", "matrix"], "y")], "not a vector"),
    "clip": ([CONV, node("Clip", ["c", "c"], "y")], "input 1 must be constant"),
    "bounds": ([CONV, node("Clip", ["c", "six", "zero"], "y")], "bounds 6.0 and 0.0"),
    "division": ([CONV, node("Div", ["c", "zero"], "y")], "division by zero"),
    "mode": ([node("Pad", ["x", "pads"], "p", mode="reflect"), node("Relu", ["p"], "y")], "with zero"),
    "softmax": ([CONV, node("Softmax", ["c"], "y", axis=3)], "over the channels"),
    "softmax inside": (
        [CONV, node("Softmax", ["c"], "s", axis=2), node("Mul", ["c", "s"], "y")],
        "over the channels",
    ),
    "transpose": ([CONV, node("Transpose", ["c"], "y", perm=[0, 1, 3, 2])], "transpose of"),
    "ceil": (
        [CONV, node("MaxPool", ["c"], "y", kernel_shape=[5, 5], strides=[2, 2], ceil_mode=1)],
        "ceil_mode",
    ),
    "nan": ([node("Conv", ["x", "nan", "b"], "y")], "finite"),
    "second write": ([CONV, node("Relu", ["c"], "c"), node("Relu", ["c"], "y")], "a second time"),
    "images": ([CONV, node("Mul", ["c", "images"], "y")], "no single image"),
}


@pytest.mark.parametrize("case", BAD_NODES)
def test_bad_nodes(case: str, tmp_path: Path) -> None:
    nodes, says = BAD_NODES[case]
    constants = convolution() | {
        "nan": np.full((CHANNELS, 3, 3, 3), np.nan, np.float32),
        "matrix": np.ones((12, 2), np.float32),
        "shape": np.asarray([7, 5], np.int64),
        "six": np.float32(6),
        "zero": np.float32(0),
        "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "images": np.arange(288, dtype=np.float32).reshape(2, 1, 12, 12),
    }
    message = refused(model(nodes, constants), tmp_path)
    assert says in message
    assert "node '" in message


def test_nothing_between_input_and_output(tmp_path: Path) -> None:
    assert "operator" in refused(model([node("Identity", ["x"], "y")], {}), tmp_path)
    assert "no operator" in refused(model([node("Mul", ["x", "k"], "y")], {"k": np.float32(2)}), tmp_path)


def test_output_that_nothing_writes(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution(), output="z")
    assert "output 'z': no node writes it" in refused(proto, tmp_path)


def test_initialiser_without_its_data(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution())
    proto.graph.initializer[0].raw_data = b"1234"
    assert "data does not fill the shape [6, 3, 3, 3]" in refused(proto, tmp_path)
    proto.graph.initializer[0].dims[0] = 2**40
    assert "is not possible" in refused(proto, tmp_path)


def test_zoo_options_with_a_file(tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w", "b"], "y")], convolution())
    assert "width: only zoo models" in refused(proto, tmp_path, width=0.5)


def test_name_must_be_an_identifier(tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError, match="not a C identifier"):
        load("mobilenet_v3_small", name="3d")


@pytest.mark.parametrize("name", [b"Conv", b"node_called_so", b"tensor_called_so", b"kernel_shape"])
def test_names_that_are_not_text(tmp_path: Path, name: bytes) -> None:
    first = node("Conv", ["x", "w", "b"], "tensor_called_so", kernel_shape=[3, 3])
    first.name = "node_called_so"
    data = model([first, node("Relu", ["tensor_called_so"], "y")], convolution()).SerializeToString()
    assert name in data
    assert "a name in it is not text" in refused(data.replace(name, b"\xff" * len(name)), tmp_path)
