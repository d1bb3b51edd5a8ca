"""Models that come quantised: our answers beside LiteRT's and onnxruntime's, on the labelled images.

    python benchmarks/imported.py [--images N] [--json]

Needs the trained models (``MNV3C_DATA``), ``ai-edge-litert`` and ``onnxruntime``. Ours is the generated
``ref`` library, built for this machine; every other path gives the same bits. LiteRT runs a model with
its default engine, or with TFLite's built-in kernels where that engine refuses it, on one thread (its
``MEAN`` depends on the number of threads). Each image is resized whole to 224x224, bilinear.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.frontend import quantized
from mnv3c.ir.graph import Graph
from mnv3c.runners.host import HostRunner
from mnv3c.runners.library import open_library

Classifier = Callable[[np.ndarray], np.ndarray]
BACKGROUND = 1  # index 0 of these models is a background class


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        agreement: share of images on which our first answer is the peer's.
    """

    model: str
    peer: str
    peer_top1: float
    our_top1: float
    agreement: float
    must: float
    seconds_an_image: float


@dataclass(frozen=True)
class Case:
    """A model, how its input is made from bytes, and the agreement that it must reach."""

    file: str
    scale: float
    shift: float
    must: float


CASES = (
    Case("mobilenet_v3_small_1.0_224_qat_uint8.tflite", 1.0, 0.0, 0.97),
    Case("mobilenet_v3_large_minimalistic_1.0_224_qat_uint8.tflite", 1.0, 0.0, 0.97),
    Case("mobilenet_v3_small_1.0_224_ptq_int8.tflite", 1 / 255, 0.0, 0.95),
    Case("mobilenet_v3_small_1.0_224_qat_qdq.onnx", 1 / 127, -128 / 127, 0.97),
)


def litert_classifier(path: Path) -> tuple[str, Classifier]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    engines = {
        "LiteRT (XNNPACK)": OpResolverType.BUILTIN,
        "LiteRT (built-in kernels)": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }
    for name, engine in engines.items():
        try:
            interpreter = Interpreter(str(path), experimental_op_resolver_type=engine, num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError):
            continue
        return name, partial(_invoke, interpreter)
    raise SystemExit(f"LiteRT does not load {path.name}")


def _invoke(interpreter: Any, x: np.ndarray) -> np.ndarray:
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(source["index"], x[None].astype(source["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(sink["index"]).ravel()


def onnxruntime_classifier(path: Path) -> tuple[str, Classifier]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return "onnxruntime", lambda x: session.run(None, {name: x.transpose(2, 0, 1)[None]})[0].ravel()


def our_classifier(graph: Graph, folder: Path) -> Classifier:
    """The ``ref`` library of ``graph``, built for this machine."""
    write_folder(folder, build_library(graph, ["ref"]).files)
    runner = HostRunner(open_library(folder))
    return lambda x: runner.run([np.ascontiguousarray(x)])[0].ravel()


def measure(case: Case, data: Path, images: list[np.ndarray], labels: np.ndarray, folder: Path) -> Row:
    path = data / "models" / case.file
    peer_name, peer = (litert_classifier if path.suffix == ".tflite" else onnxruntime_classifier)(path)
    graph = quantized.load(path)
    ours = our_classifier(graph, folder / graph.name)
    dtype = graph.tensor(graph.inputs[0]).dtype
    theirs, answers, seconds = [], [], 0.0
    for image in images:
        x = image if dtype == "uint8" else (image * np.float32(case.scale) + np.float32(case.shift))
        x = x.astype(dtype)
        theirs.append(int(peer(x).argmax()))
        start = time.perf_counter()
        answers.append(int(ours(x).argmax()))
        seconds += time.perf_counter() - start
    got, want = np.asarray(answers), np.asarray(theirs)
    return Row(
        model=case.file,
        peer=peer_name,
        peer_top1=float((want == labels).mean()),
        our_top1=float((got == labels).mean()),
        agreement=float((got == want).mean()),
        must=case.must,
        seconds_an_image=seconds / len(images),
    )


def labelled_images(data: Path, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """uint8 ``(224, 224, 3)`` each, and the models' indices of their classes."""
    folder = data / "images" / "labelled"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    images = [
        np.asarray(
            Image.open(folder / r["file"]).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        )
        for r in rows
    ]
    return images, np.asarray([int(r["label_0based"]) + BACKGROUND for r in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description="Models that come quantised, beside their own runtimes.")
    parser.add_argument("--images", type=int, default=500, help="how many of the labelled images")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("MNV3C_DATA", beside))
    if not (data / "models").is_dir():
        print(
            "no trained models: set MNV3C_DATA to the folder that holds models/ and images/", file=sys.stderr
        )
        return 2
    images, labels = labelled_images(data, arguments.images)
    with tempfile.TemporaryDirectory(prefix="mnv3c-") as folder:
        rows = [measure(case, data, images, labels, Path(folder)) for case in CASES]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(
            f"{len(images)} images\n| model | peer | peer's top-1 | ours | agreement | must | ms an image |"
        )
        print("|---|---|---|---|---|---|---|")
        for r in rows:
            print(
                f"| {r.model} | {r.peer} | {r.peer_top1:.1%} | {r.our_top1:.1%} | {r.agreement:.1%}"
                f" | {r.must:.0%} | {r.seconds_an_image * 1e3:.0f} |"
            )
    return 0 if all(r.agreement >= r.must for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
