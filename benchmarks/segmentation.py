"""The trained LR-ASPP networks: pixel agreement on the two street photos, instructions, memory.

    python benchmarks/segmentation.py [--masks FILE.png] [--count [--cc COMMAND]]

Needs the trained models (``$MNV3C_DATA``) and LiteRT (``pip install ai-edge-litert``). The float file is
quantised on the calibration images, the two quantised files are imported as they are; the integers are
those of every path of the compiled library (``tests/spatial`` holds the paths to them). ``--count`` compiles
the three networks for ``dotprod`` (Cortex-A76) and counts a run as ``mnv3c bench`` does, beside LiteRT 2.3.0
on the publisher's files. Exit code 1 if any figure misses what it must be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mnv3c import api
from mnv3c.bench.report import bench
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.frontend.quantized import load as load_quantized
from mnv3c.images import Normalization
from mnv3c.ir.graph import Graph
from mnv3c.pictures import colours
from mnv3c.reference import integer
from mnv3c.runners import open_library

NAME = "lraspp_mobilenet_v3_small_513x1025"
CLASSES = 5
# Least agreement with: float, and LiteRT on the same file.
FLOAT_LEAST, LITERT_LEAST = 0.93, 0.98
# Instructions: LiteRT's on the publisher's file of that kind, and ours at most. Bytes of the arena at most.
COUNTS = {"ours": (207.9e6, 120e6), "qat_uint8": (337.0e6, 125e6), "ptq_int8": (207.9e6, 120e6)}
ARENA_MOST = 3_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="write the masks: a row a photo, a column a network")
    parser.add_argument("--count", action="store_true", help="count instructions too")
    parser.add_argument("--cc", metavar="COMMAND", help="what compiles the libraries that are counted")
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("MNV3C_DATA", beside))
    photos = {p.name: photo(p) for p in sorted((data / "images" / "street").iterdir())}
    files = {k: data / "models" / f"{NAME}_{k}.tflite" for k in ("float", "qat_uint8", "ptq_int8")}
    mapping = Normalization((1 / 128,), (-1.0,))

    began = time.monotonic()
    network = api.load(files["float"])
    quantized = api.quantize(network, data / "images" / "calibration", input_dtype="uint8", normalize=mapping)
    seconds = time.monotonic() - began
    masks: dict[str, dict[str, np.ndarray]] = {"float": {}, "ours": {}, "qat_uint8": {}, "ptq_int8": {}}
    for name, pixels in photos.items():
        masks["float"][name] = litert(files["float"], mapping.apply(pixels))
        masks["ours"][name] = classes(quantized, pixels)
    print("| network | photo | agreement with float | of LiteRT with float | agreement with LiteRT |")
    print("|---|---|---|---|---|")
    good = True
    for name in photos:
        share = agreement(masks["ours"][name], masks["float"][name])
        print(f"| float file, quantised here | {name} | {share:.2%} | | |")
        good = good and share >= FLOAT_LEAST
    graphs = {"ours": quantized}
    for kind in ("qat_uint8", "ptq_int8"):
        graph = graphs[kind] = load_quantized(files[kind])
        for name, pixels in photos.items():
            masks[kind][name] = classes(graph, pixels)
            theirs = litert(files[kind], pixels)
            with_float = agreement(masks[kind][name], masks["float"][name])
            with_litert = agreement(masks[kind][name], theirs)
            own = agreement(theirs, masks["float"][name])
            print(f"| {kind}, imported | {name} | {with_float:.2%} | {own:.2%} | {with_litert:.2%} |")
            good = good and with_litert >= LITERT_LEAST
    print(f"\nquantised in {seconds:.0f} s")
    if options.masks is not None:
        save(options.masks, masks)
    if options.count:
        good = count(graphs, options.cc) and good
    return 0 if good else 1


def count(graphs: dict[str, Graph], cc: str | None) -> bool:
    """Print instructions and arena of every network; whether none takes too much."""
    print("\n| network | instructions, dotprod (A76) | at most | LiteRT | arena, bytes |")
    print("|---|---|---|---|---|")
    good = True
    for name, graph in graphs.items():
        theirs, most = COUNTS[name]
        library = build_library(graph, ("dotprod",), options=Options(tuning="cortex-a76"))
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder) / "net", library.files)
            report = bench(
                open_library(Path(folder) / "net"), path="dotprod", cpu="cortex-a76", cc=cc
            ).as_json()
        instructions, arena = report["total"]["instructions"], report["sizes"]["arena"]
        millions = " | ".join(f"{n / 1e6:.1f} M" for n in (instructions, most, theirs))
        print(f"| {name} | {millions} | {arena} |")
        good = good and instructions <= most and arena <= ARENA_MOST
    return good


def photo(path: Path) -> np.ndarray:
    """uint8 ``(513, 1025, 3)``: the whole picture, bilinear."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB").resize((1025, 513), Image.Resampling.BILINEAR))


def classes(graph: Graph, pixels: np.ndarray) -> np.ndarray:
    """Class numbers of an integer network that takes bytes."""
    return integer.run(graph, {graph.inputs[0]: pixels})[graph.outputs[0]][..., 0]


def litert(path: Path, x: np.ndarray) -> np.ndarray:
    """What LiteRT makes of a file that ends in an argmax."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a == b).mean())


def save(path: Path, masks: dict[str, dict[str, np.ndarray]]) -> None:
    """One picture of all masks, every fourth pixel."""
    rows = zip(*(each.values() for each in masks.values()), strict=True)
    flat = np.concatenate([np.concatenate([m[::4, ::4] for m in row], axis=1) for row in rows])
    picture = Image.fromarray(flat.astype(np.uint8), "P")
    picture.putpalette(colours(CLASSES).ravel().tolist())
    picture.save(path, "PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
