"""Trained quantised networks on real images: every logit as their own runtime computes it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mnv3c.frontend import quantized
from mnv3c.reference import integer

litert = pytest.importorskip("ai_edge_litert.interpreter")
IMAGES = 3


def images(data):
    for path in sorted((data / "images" / "labelled").glob("*.jpg"))[:IMAGES]:
        yield np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small_1.0_224_qat_uint8.tflite",
        "mobilenet_v3_large_minimalistic_1.0_224_qat_uint8.tflite",
    ],
)
def test_uint8_equals_litert_bit_for_bit(data, name):
    path = str(data / "models" / name)
    graph = quantized.load(path)
    interpreter = litert.Interpreter(path, experimental_preserve_all_tensors=True, num_threads=1)
    interpreter.allocate_tensors()
    softmax = next(o for o in interpreter._get_ops_details() if o["op_name"] == "SOFTMAX")
    for image in images(data):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        want = interpreter.get_tensor(int(softmax["inputs"][0])).ravel()
        got = integer.run(graph, {graph.inputs[0]: image})[graph.outputs[0]].ravel()
        assert got.tolist() == want.tolist()


@pytest.mark.slow
def test_post_training_int8_equals_built_in_kernels(data):
    path = str(data / "models" / "mobilenet_v3_small_1.0_224_ptq_int8.tflite")
    graph = quantized.load(path)
    engine = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(path, experimental_op_resolver_type=engine, num_threads=1)
    interpreter.allocate_tensors()
    equal = []
    for image in images(data):
        x = (image / 255).astype(np.float32)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
        interpreter.invoke()
        want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).ravel()
        got = integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]].ravel()
        equal.append(np.abs(got - want).max() < 1e-5)
        assert got.argmax() == want.argmax()
    # One half that rounds the other way in a mean of 120 channels is enough to differ at the end.
    assert any(equal)


@pytest.mark.slow
def test_qdq_equals_onnxruntime(data):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = str(data / "models" / "mobilenet_v3_small_1.0_224_qat_qdq.onnx")
    graph = quantized.load(path)
    session = onnxruntime.InferenceSession(path)
    for image in images(data):
        x = ((image.astype(np.float32) - 128) / 127).astype(np.float32)
        want = session.run(None, {"input": x.transpose(2, 0, 1)[None]})[0].ravel()
        got = integer.run(graph, {graph.inputs[0]: x})[graph.outputs[0]].ravel()
        assert got.argmax() == want.argmax()
