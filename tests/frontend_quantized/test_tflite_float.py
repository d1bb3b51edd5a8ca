"""Float TFLite against LiteRT."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mnv3c.cli import main
from mnv3c.frontend import quantized, tflite
from mnv3c.ir import float_ops as f
from mnv3c.reference import floating
from tests.tflite_files import NONE, RELU, RELU6, SAME, VALID, File

litert = pytest.importorskip("ai_edge_litert.interpreter")


def network(half: bool = False) -> File:
    """``half``: weights in float16, as TFLite's converter makes them for ``target_spec.supported_types``."""
    file = File()
    rng = np.random.default_rng(4)

    def value(*shape):
        return file.tensor((1, *shape), "float32")

    def constant(*shape):
        values = rng.normal(0, 0.3, shape)
        if not half:
            return file.tensor(shape, "float32", data=values)
        stored = file.tensor(shape, "float16", data=values)
        return file.operator("DEQUANTIZE", (stored,), file.tensor(shape, "float32"), version=3)

    x = value(14, 14, 3)
    file.inputs = [x]
    options = file.window(2, SAME, NONE)
    conv = (x, constant(8, 3, 3, 3), constant(8))
    a = file.operator("CONV_2D", conv, value(7, 7, 8), "Conv2DOptions", **options)
    swish = file.operator("HARD_SWISH", (a,), value(7, 7, 8))
    options = {**file.window(1, SAME, RELU6), "depthMultiplier": 1}
    depthwise = (swish, constant(1, 5, 5, 8), constant(8))
    d = file.operator("DEPTHWISE_CONV_2D", depthwise, value(7, 7, 8), "DepthwiseConv2DOptions", **options)
    axes = file.tensor((2,), "int32", data=[1, 2])
    pool = file.operator("MEAN", (d, axes), value(1, 1, 8), "ReducerOptions", keepDims=True)
    excite = (pool, constant(8, 1, 1, 8), constant(8))
    e = file.operator("CONV_2D", excite, value(1, 1, 8), "Conv2DOptions", **file.window(1, SAME, NONE))
    three = file.tensor((), "float32", data=3.0)
    clipped = file.operator("ADD", (e, three), value(1, 1, 8), "AddOptions", fusedActivationFunction=RELU6)
    sixth = file.tensor((), "float32", data=1 / 6)
    gate = file.operator("MUL", (clipped, sixth), value(1, 1, 8), "MulOptions", fusedActivationFunction=NONE)
    gated = file.operator("MUL", (d, gate), value(7, 7, 8), "MulOptions", fusedActivationFunction=NONE)
    total = file.operator("ADD", (gated, swish), value(7, 7, 8), "AddOptions", fusedActivationFunction=RELU)
    options = {"filterHeight": 7, "filterWidth": 7, "strideH": 1, "strideW": 1, "padding": VALID}
    mean = file.operator("AVERAGE_POOL_2D", (total,), value(1, 1, 8), "Pool2DOptions", **options)
    shape = file.tensor((2,), "int32", data=[1, 8])
    flat = file.operator("RESHAPE", (mean, shape), value(8), "ReshapeOptions", newShape=[1, 8])
    dense = (flat, constant(5, 8), constant(5))
    logits = file.operator("FULLY_CONNECTED", dense, value(5), "FullyConnectedOptions")
    file.outputs = [file.operator("SOFTMAX", (logits,), value(5), "SoftmaxOptions", beta=1.0)]
    return file


@pytest.mark.parametrize("half", [False, True])
def test_equals_litert(tmp_path, half):
    path = tmp_path / "net.tflite"
    data = network(half).bytes()
    path.write_bytes(data)
    assert not quantized.is_quantized(path)
    graph = tflite.load_float(path)
    assert graph.meta["source"] == "tflite" and graph.meta["classes"] == 5
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    for seed in range(3):
        x = np.random.default_rng(seed).normal(0, 1, (14, 14, 3)).astype(np.float32)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
        interpreter.invoke()
        want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        got = floating.run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
        assert np.allclose(got.ravel(), want.ravel(), atol=1e-5)


def test_padding_is_asymmetric(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(network().bytes())
    first = next(n for n in tflite.load_float(path) if isinstance(n, f.Conv2d))
    assert first.pad == (0, 0, 1, 1)


def test_eval_takes_a_float_file(tmp_path, capsys):
    """``mnv3c eval``: the float scores are LiteRT's, and the quantised network's agree with them."""
    (tmp_path / "net.tflite").write_bytes(network().bytes())
    rng = np.random.default_rng(8)
    interpreter = litert.Interpreter(model_content=network().bytes())
    interpreter.allocate_tensors()
    rows = ["file,label_0based"]
    for i in range(20):
        pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None] / np.float32(255))
        interpreter.invoke()
        want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        rows.append(f"{i}.png,{want.argmax()}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    options = ["--images", tmp_path, "--labels", tmp_path / "labels.csv", "--normalize", "unit", "--json"]
    main([str(o) for o in ("eval", tmp_path / "net.tflite", *options)])
    assert json.loads(capsys.readouterr().out)["top1"] == 1
    main([str(o) for o in ("eval", tmp_path / "net.tflite", "--calibration", tmp_path, *options)])
    facts = json.loads(capsys.readouterr().out)
    assert facts["engine"] == "int8" and facts["float"]["top1"] == 1 and facts["agreement"] >= 0.9
