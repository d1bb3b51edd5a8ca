"""Small ONNX models made by hand, and the check that the float graph computes what onnxruntime does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mnv3c.frontend import load
from mnv3c.ir.graph import Graph
from mnv3c.reference.floating import run

CHANNELS = 6


def node(op: str, inputs: Sequence[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    constants: dict[str, np.ndarray],
    *,
    shape: Sequence[int | str] = (1, 3, 12, 12),
    output: str = "y",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from ``x`` to ``output``; the output's shape is left to onnxruntime."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def convolution(seed: int = 0, kernel: int = 3, inputs: int = 3) -> dict[str, np.ndarray]:
    """Weights ``w`` and bias ``b`` that spread their outputs over the interesting range of h-swish."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(0, 1.2, (CHANNELS, inputs, kernel, kernel)).astype(np.float32),
        "b": rng.normal(0, 1.5, CHANNELS).astype(np.float32),
    }


CONV = node("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def check(
    proto: onnx.ModelProto,
    folder: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    tolerance: float = 1e-4,
) -> Graph:
    """Load ``proto`` and compare with onnxruntime on random data; returns the float graph."""
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return check_file(path, input_shape=input_shape, tolerance=tolerance)


def check_file(path: Path, *, input_shape: tuple[int, ...] | None = None, tolerance: float = 1e-4) -> Graph:
    graph = load(str(path), input_shape=input_shape)
    height, width, channels = graph.tensor("input").shape
    raw = np.random.default_rng(1).normal(0, 1, (height, width, channels)).astype(np.float32)
    affine = graph.meta["input_affine"]
    assert isinstance(affine, dict)
    fed = (raw * np.asarray(affine["scale"]) + np.asarray(affine["shift"])).astype(np.float32)
    got = run(graph, {"input": fed})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feed = raw[None] if graph.meta["input_layout"] == "NHWC" else raw.transpose(2, 0, 1)[None]
    want = session.run(None, {name: feed})
    assert len(want) == len(graph.outputs)
    for tensor, expected in zip(graph.outputs, want, strict=True):
        actual = got[tensor]
        if expected.ndim == 4 and expected.shape[1] == actual.shape[2]:
            actual = actual.transpose(2, 0, 1)
        assert np.abs(expected).max() > 1e-3, "the model says nothing"
        error = np.abs(actual.ravel() - expected.ravel()).max() / np.abs(expected).max()
        assert error < tolerance, f"{tensor}: relative error {error}"
    return graph


def kinds(graph: Graph) -> list[str]:
    """Operators in order, activations by their kind."""
    return [getattr(n, "kind", type(n).__name__) for n in graph.nodes]
