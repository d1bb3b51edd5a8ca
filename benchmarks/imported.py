"""Classification networks that come quantised: instructions of a run beside LiteRT's on the same file.

    python benchmarks/imported.py [--core CORE]... [--cc COMMAND] [FILE...]

Needs the trained models (``$MNV3C_DATA``), or TFLite and QDQ files that are named. Each is imported as it is,
compiled for a core, and a run is counted as ``mnv3c bench`` does. Exit code 1 if any figure misses what it
must be. ``segmentation.py`` has the same for Lite R-ASPP, ``accuracy.py`` whether the answers agree.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import mnv3c
from mnv3c import targets
from mnv3c.bench.report import bench
from mnv3c.runners import open_library

# Instructions on `dotprod` (Cortex-A76): of LiteRT 2.3.0 (aarch64 wheel, under emulation), and ours at most.
FILES: dict[str, tuple[float | None, float | None]] = {
    "mobilenet_v3_small_1.0_224_qat_uint8.tflite": (30.8e6, 8.5e6),
    "mobilenet_v3_large_minimalistic_1.0_224_qat_uint8.tflite": (92.8e6, 24e6),
    "mobilenet_v3_small_1.0_224_ptq_int8.tflite": (None, None),
    "mobilenet_v3_small_1.0_224_qat_qdq.onnx": (None, None),
}
CORE = "cortex-a76"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--core", action="append", metavar="CORE", help=f"default: {CORE}")
    parser.add_argument("--cc", metavar="COMMAND", help="what compiles the libraries")
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    models = Path(os.environ.get("MNV3C_DATA", beside)) / "models"
    print("| file | core, path | instructions | at most | LiteRT | estimated cycles | arena | portable |")
    print("|---|---|---|---|---|---|---|---|")
    good = True
    for file in options.files or [models / name for name in FILES]:
        for core in options.core or [CORE]:
            line, reached = one(file, core, options.cc)
            print(line, flush=True)
            good = good and reached
    return 0 if good else 1


def one(file: Path, core: str, cc: str | None) -> tuple[str, bool]:
    """A line of the table, and whether the figure is what it must be."""
    theirs, most = FILES.get(file.name, (None, None)) if core == CORE else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        library = mnv3c.compile(file, core, Path(folder) / "net")
        path = targets.get(core).paths[0]
        report = bench(open_library(Path(folder) / "net"), path=path, cpu=core, cc=cc).as_json()
    count = report["total"]["instructions"]
    notes = library.manifest["programs"][path]["notes"]
    portable = sum("falls back to a portable kernel" in note for note in notes)
    cells = [
        file.name,
        f"{core}, {path}",
        millions(count),
        millions(most),
        millions(theirs),
        millions(report["total"]["cycles"]),
        str(report["sizes"]["arena"]),
        str(portable),
    ]
    return f"| {' | '.join(cells)} |", most is None or count <= most


def millions(count: float | None) -> str:
    return f"{count / 1e6:.2f} M" if count is not None else ""


if __name__ == "__main__":
    sys.exit(main())
