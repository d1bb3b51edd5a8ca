"""Top-1, top-5 and agreement over a folder of labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.engines import Engine
from mnv3c.images import load_image, read_labels
from mnv3c.ir.graph import Shape

_BATCH = 10


@dataclass(frozen=True)
class Score:
    """How an engine did.

    Attributes:
        images: how many there were.
        top1, top5: share of images whose label is first, or among the first five.
        agreement: share whose first class is the reference engine's too; ``None`` without one.
        signal_to_noise_db: of the scores against the reference's.
        worst: classes with most wrong answers: ``(label, most frequent wrong answer, wrong, images)``, as
            the labels number them; the background class of networks that have one is -1.
    """

    images: int
    top1: float
    top5: float
    agreement: float | None
    signal_to_noise_db: float | None
    worst: tuple[tuple[int, int, int, int], ...]


def evaluate(
    engines: Mapping[str, Engine],
    images: Path,
    labels: Path,
    shape: Shape,
    *,
    reference: str | None = None,
    limit: int | None = None,
    workers: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Score]:
    """Score engines on the same images, each the whole of its file resized to ``shape``.

    Args:
        images: folder; ``labels``: CSV with ``file`` and ``label_0based``.
        reference: the engine that the others are compared with.
        limit: take only the first so many images.
        workers: threads; the results do not depend on them.

    Raises:
        Mnv3cError: an unreadable file, or a label outside of the engine's classes.
    """
    rows = read_labels(labels)[:limit]
    batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]

    def run(batch: list[tuple[str, int]]) -> list[np.ndarray]:
        pixels = np.stack([load_image(images / file, shape, crop=False) for file, _ in batch])
        return [engine(pixels) for engine in engines.values()]

    parts: list[list[np.ndarray]] = []
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(run, batches):
            parts.append(part)
            if progress is not None:
                progress("evaluate", min(len(parts) * _BATCH, len(rows)), len(rows))
    results = {name: np.concatenate([p[i] for p in parts]) for i, name in enumerate(engines)}
    truth = np.asarray([label for _, label in rows])
    against = results[reference] if reference is not None else None
    return {name: score(got, truth, None if name == reference else against) for name, got in results.items()}


def score(scores: np.ndarray, labels: np.ndarray, reference: np.ndarray | None = None) -> Score:
    """Score ``(N, classes)`` numbers.

    Networks with 1001 classes have a background class first; labels are 0-based without it.

    Raises:
        Mnv3cError: a label outside of the classes.
    """
    background = 1 if scores.shape[1] == 1001 else 0
    labels = labels + background
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise Mnv3cError(f"labels up to {labels.max()}, the network has {scores.shape[1]} classes", "labels")
    # Ties go to the lower class, as argmax has it.
    ranked = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
    first = ranked[:, 0]
    agreement = noise = None
    if reference is not None:
        agreement = float((first == reference.argmax(axis=1)).mean())
        error = np.square(scores.astype(np.float64) - reference).mean()
        noise = float(
            10 * np.log10(max(np.square(reference.astype(np.float64)).mean(), 1e-300) / max(error, 1e-300))
        )
    return Score(
        images=len(labels),
        top1=float((first == labels).mean()),
        top5=float((ranked[:, :5] == labels[:, None]).any(axis=1).mean()),
        agreement=agreement,
        signal_to_noise_db=noise,
        worst=_worst(first - background, labels - background),
    )


def _worst(answers: np.ndarray, labels: np.ndarray, most: int = 10) -> tuple[tuple[int, int, int, int], ...]:
    found = []
    for label in np.unique(labels):
        of_class = answers[labels == label]
        wrong = of_class[of_class != label]
        if len(wrong):
            classes, counts = np.unique(wrong, return_counts=True)
            found.append((int(label), int(classes[counts.argmax()]), len(wrong), len(of_class)))
    return tuple(sorted(found, key=lambda row: (-row[2], row[0]))[:most])
