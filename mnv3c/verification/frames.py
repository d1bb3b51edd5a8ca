"""Random frames for a library with a camera, and what has to come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv3c.camera import FITS, FORMATS, ROTATIONS, Frame, random_frame
from mnv3c.ir.graph import Graph
from mnv3c.reference import camera as reference
from mnv3c.reference import integer as network_reference
from mnv3c.runners import Library, Runner
from mnv3c.runners.process import ProcessRunner
from mnv3c.verification.inputs import byte_levels

# Whole inferences of a frame, beside the images that are made of every one.
_RUNS = 2


@dataclass(frozen=True, eq=False)
class FrameSample:
    """One frame.

    Attributes:
        image: the network's input that has to be made of it, as the library stores it.
        outputs: of the network; ``None`` where the image alone is compared.
    """

    frame: Frame
    image: np.ndarray
    outputs: list[np.ndarray] | None = None


def frame_samples(library: Library, integer: Graph, network: Graph | None, seed: int) -> list[FrameSample]:
    """Frames of every rotation and fit, of sizes from one pixel on; none where there is no camera."""
    described = library.manifest.get("camera")
    if described is None:
        return []
    rng = np.random.default_rng(seed)
    levels = byte_levels(integer, network)
    result = []
    for i, (width, height) in enumerate(_sizes(rng, integer.tensor(integer.inputs[0]).shape[:2])):
        frame = random_frame(
            rng,
            described["format"],
            width,
            height,
            smooth=i % 2 == 1,
            rotation=ROTATIONS[i % 4],
            fit=FITS[i % 3],
        )
        image = library_image(frame, levels, integer)
        outputs = None
        if i < _RUNS:
            values = network_reference.run(integer, {integer.inputs[0]: image})
            outputs = [values[o] for o in integer.outputs]
        result.append(FrameSample(frame, image, outputs))
    return result


def library_image(frame: Frame, levels: np.ndarray, integer: Graph) -> np.ndarray:
    """The library's input for a frame; ``levels`` as ``byte_levels`` gives them."""
    height, width, _ = integer.tensor(integer.inputs[0]).shape
    seen = reference.image(frame, height, width)
    return levels[seen, np.arange(3)]


def _sizes(rng: np.random.Generator, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Widths and heights: larger than the network's input, smaller, of odd proportions, and the least."""
    height, width = shape
    fixed = [(2 * width + 1, 3 * height), (width // 3 + 1, height // 2 + 1), (1, 1), (2, 1), (1, 3)]
    fixed += [(width, height), (5 * width // 2, 3), (3, 2 * height)]
    return fixed + [
        (int(rng.integers(1, 2 * width + 1)), int(rng.integers(1, 2 * height + 1))) for _ in range(4)
    ]


def check_frames(library: Library, runner: Runner, samples: Sequence[FrameSample]) -> str:
    """Run them; what is wrong first, in words, or nothing."""
    frames = [s.frame for s in samples]
    if isinstance(runner, ProcessRunner):
        images = runner.camera_images(frames) if frames else []
    else:
        images = [runner.camera_image(f) for f in frames]
    for i, (sample, got) in enumerate(zip(samples, images, strict=True)):
        problem = _difference("image", sample.image, got)
        if not problem and sample.outputs is not None:
            runner.parallel = i % 2 == 1
            outputs = runner.run_camera(sample.frame)
            named = zip(library.outputs, sample.outputs, outputs, strict=True)
            problem = next((p for t, w, g in named if (p := _difference(f"output {t.name}", w, g))), "")
        if problem:
            f = sample.frame
            what = f"{f.width}x{f.height} {f.format}, turned by {f.rotation}, {f.fit}"
            return f"frame {i} ({what}{', ' + f.range if FORMATS[f.format].yuv else ''}): {problem}"
    return ""


def _difference(what: str, want: np.ndarray, got: np.ndarray) -> str:
    bits = f"u{want.dtype.itemsize}"
    unequal = want.view(bits) != got.view(bits)
    if not unequal.any():
        return ""
    at = tuple(int(n) for n in np.argwhere(unequal)[0])
    return (
        f"{what}: {int(unequal.sum())} of {unequal.size} values differ,"
        f" the first at {list(at)}: {got[at]} instead of {want[at]}"
    )
