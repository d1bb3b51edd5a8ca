"""PP-OCR's text direction classifier on drawn lines of text, each both ways up, beside onnxruntime's float.

The lines are drawn from a seed: words and numbers in the fonts that there are, in sizes, colours and
contrasts that differ, noisy and blurred. They are nothing that the network is calibrated on.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from accuracy_table.rows import Check, Row
from mnv3c import api
from mnv3c.evaluate import onnx_engine, score
from mnv3c.evaluate.libraries import host_engine
from mnv3c.evaluate.subject import Subject
from mnv3c.images import Normalization

MUST, AIM = 99.0, 100.0
COUNT, SEED = 200, 2024
CALIBRATION_COUNT, CALIBRATION_SEED = 32, 7
_NORMALIZATION = Normalization.from_mean_std((0.5,), (0.5,), 255.0)
# Looked for among the fonts of the system; Pillow's own is always there.
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSerif-Italic.ttf",
    "LiberationSansNarrow-Bold.ttf",
)


def fonts() -> list[str | None]:
    """The files of the fonts that are installed; ``None`` is Pillow's own."""
    found: list[str | None] = [None]
    for name in _FONTS:
        try:
            ImageFont.truetype(name, 20)
        except OSError:
            continue
        found.append(name)
    return found


def draw_line(rng: np.random.Generator, words: tuple[str, ...], font_files: list[str | None]) -> Image.Image:
    """One line of text, upright."""
    size = int(rng.integers(14, 60))
    file = font_files[rng.integers(len(font_files))]
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    parts = [str(rng.choice(words)) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.4:
        parts.insert(int(rng.integers(len(parts) + 1)), str(rng.integers(100, 100_000)))
    text = " ".join(parts)
    text = text.upper() if rng.random() < 0.2 else text.title() if rng.random() < 0.4 else text
    left, top, right, bottom = font.getbbox(text)
    margins = rng.integers(2, 4 + size // 3, 4)
    shape = (int(right - left + margins[0] + margins[2]), int(bottom - top + margins[1] + margins[3]))
    dark, light = rng.integers((0, 130), (110, 256))
    ink, paper = (dark, light) if rng.random() < 0.7 else (light, dark)
    colours = [
        tuple(int(c) for c in np.clip(level + rng.integers(-25, 26, 3), 0, 255)) for level in (ink, paper)
    ]
    image = Image.new("RGB", shape, colours[1])
    ImageDraw.Draw(image).text((margins[0] - left, margins[1] - top), text, font=font, fill=colours[0])
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, size / 30))))
    noise = rng.normal(0.0, rng.uniform(0.0, 12.0), (shape[1], shape[0], 3))
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))


def lines(example: ModuleType, count: int, seed: int) -> np.ndarray:
    """``count`` lines, each upright and then turned by 180 degrees: uint8 ``(2 * count, 48, 192, 3)``."""
    rng, font_files = np.random.default_rng(seed), fonts()
    both = []
    for _ in range(count):
        image = draw_line(rng, example.WORDS, font_files)
        both += [example.to_input(image), example.to_input(image.rotate(180))]
    return np.stack(both)


def measure(limit: int | None) -> Row:
    """Quantise the network by other lines and compare its answers with those of the float one."""
    example = _example()
    start = time.perf_counter()
    images = lines(example, min(COUNT, limit or COUNT), SEED)
    network = api.load(example.model_file(), input_shape=(3, example.HEIGHT, example.WIDTH))
    calibration = [_NORMALIZATION.apply(x) for x in lines(example, CALIBRATION_COUNT, CALIBRATION_SEED)]
    integer = api.quantize(network, calibration, input_dtype="uint8", normalize=_NORMALIZATION)
    want = onnx_engine(example.model_file(), _NORMALIZATION)(images)
    with host_engine(Subject("text", integer, network, None, _NORMALIZATION), workers=1) as (engine, _):
        got = engine(images)
    turned = np.arange(len(images)) % 2
    compared = score(got, turned, want)
    assert compared.agreement is not None
    # The network ends in a softmax, which the integers leave out.
    margins = np.abs(np.diff(np.log(np.maximum(want, 1e-30)), axis=1))[:, 0]
    differ = margins[got.argmax(axis=1) != want.argmax(axis=1)]
    return Row(
        model="text-direction",
        original=f"onnxruntime, {len(fonts())} fonts",
        original_top1=100 * score(want, turned).top1,
        our_top1=100 * compared.top1,
        checks=(Check("same first answer", 100 * compared.agreement, MUST, AIM),),
        signal_to_noise_db=None,
        images=len(images),
        seconds=time.perf_counter() - start,
        remark=f"float's logits are {np.median(margins):.1f} apart at the median, and "
        f"{', '.join(f'{m:.2f}' for m in differ) or 'no less'} where the answers differ",
    )


def _example() -> ModuleType:
    """``examples/text_direction.py``, which knows where the network is and how lines are prepared."""
    file = Path(__file__).parents[2] / "examples" / "text_direction.py"
    spec = importlib.util.spec_from_file_location("text_direction", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
