"""Compiles a trained network and runs it on images, on an emulated Arm CPU.

The network is PP-OCR's text direction classifier, a MobileNetV3-Small of width 0.35 with two classes,
as the package ``rapidocr-onnxruntime`` ships it. It is shown a line of text both ways up.

    python examples/text_direction.py [--output DIR] [--keep-images]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mnv3c
from mnv3c import runners
from mnv3c.images import Normalization
from mnv3c.verification import verify

MODEL = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
HEIGHT, WIDTH = 48, 192
LABELS = ("0", "180")
WORDS = (
    "arm", "bridge", "compile", "depthwise", "engine", "filter", "garden", "harbour", "integer", "journey",
    "kernel", "library", "mobile", "network", "output", "pixel", "quiet", "river", "signal", "tensor",
    "under", "vector", "window", "year", "zebra",
)  # fmt: skip


def model_file() -> Path:
    """The network inside the installed package (which itself is not imported)."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("this example needs: pip install --no-deps rapidocr-onnxruntime==1.2.3")
    return Path(next(iter(spec.submodule_search_locations)), MODEL)


def draw_line(text: str, upside_down: bool, size: int = 34, ink: int = 20, paper: int = 240) -> Image.Image:
    """A line of text, dark on light or the other way round."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    margin = size // 5
    image = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), (paper,) * 3)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=(ink,) * 3)
    return image.rotate(180) if upside_down else image


def to_input(image: Image.Image) -> np.ndarray:
    """PP-OCR's preparation: height 48, proportions kept, padded on the right; uint8 ``(48, 192, 3)``.

    PP-OCR pads with zeros after normalising to [-1, 1]; 128 is the byte next to that.
    """
    width = min(WIDTH, math.ceil(HEIGHT * image.width / image.height))
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[:, :width] = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR))
    return pixels


def calibration(count: int, seed: int = 7) -> list[np.ndarray]:
    """Lines that differ in words, size, contrast and direction, as bytes."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        text = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
        ink, paper = (int(v) for v in rng.integers((0, 150), (90, 256)))
        if rng.random() < 0.3:
            ink, paper = paper, ink
        lines.append(to_input(draw_line(text, i % 2 == 1, int(rng.integers(18, 48)), ink, paper)))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/text_direction"), help="folder of the library"
    )
    parser.add_argument("--text", default="upside down?", help="what the line says")
    parser.add_argument("--keep-images", action="store_true", help="save the two images beside the library")
    options = parser.parse_args()

    normalize = Normalization.from_mean_std((0.5,), (0.5,), 255.0)
    print(f"compiling {model_file().name} ...", flush=True)
    began = time.monotonic()
    library = mnv3c.compile(
        model_file(),
        target="arm64",
        output=options.output,
        name="text_direction",
        calibration=[normalize.apply(pixels) for pixels in calibration(32)],
        input_dtype="uint8",
        normalize=normalize,
        input_shape=(3, HEIGHT, WIDTH),
    )
    facts = library.manifest
    size = sum(len(c) for f, c in library.files.items() if f.endswith((".c", ".h")))
    print(
        f"  {options.output}: {size / 1024:.0f} KiB of C in {time.monotonic() - began:.1f} s,"
        f" constants {facts['constant_bytes'] / 1024:.0f} KiB, arena {facts['arena_bytes'] / 1024:.0f} KiB,"
        f" paths {', '.join(facts['paths'])}"
    )

    print("comparing with the NumPy reference, bit for bit, on emulated Arm ...", flush=True)
    report = verify(options.output, count=2)
    for p in report.paths:
        result = f"not run: {p.skipped}" if p.skipped else "bit-equal" if p.equal else p.problem
        print(f"  path {p.path}: {result}{f' on {p.where}' if p.where else ''}")

    path = next(p.path for p in report.paths if not p.skipped)
    runner = runners.open_runner(runners.open_library(options.output), path)
    right = 0
    for upside_down in (False, True):
        image = draw_line(options.text, upside_down)
        if options.keep_images:
            image.save(options.output.with_name(f"text_direction_{LABELS[upside_down]}.png"))
        began = time.monotonic()
        logits = runner.run([to_input(image)])[0].ravel()
        answer = LABELS[int(logits.argmax())]
        right += answer == LABELS[upside_down]
        print(
            f"text turned by {LABELS[upside_down]:>3} degrees: the library on {runner.where}, path {path},"
            f" says {answer} ({time.monotonic() - began:.1f} s of emulation)"
        )
    runner.close()
    print(f"{right} of 2 answers are right")
    return 0 if right == 2 and report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
