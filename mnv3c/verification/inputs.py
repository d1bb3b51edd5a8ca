"""Inputs to check a library with: the whole range of its integers, image-like noise, or real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.images import (
    Normalization,
    graph_normalization,
    input_affine,
    list_images,
    load_image,
    random_inputs,
)
from mnv3c.ir.graph import Graph, Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """One inference.

    Attributes:
        library: what the library takes, one array an input.
        network: the same as the float graph takes it; ``None`` if no float graph is to be compared.
        source: ``range``, ``random`` or ``images``.
    """

    library: list[np.ndarray]
    network: np.ndarray | None
    source: str


def samples(
    integer: Graph, network: Graph | None, count: int, images: Path | None, limit: int | None, seed: int
) -> list[Sample]:
    """What to run.

    Args:
        integer, network: the integer and the float graph of a library.
        count: random inputs, beside the images: every second one uniform over the whole range of the
            input's integers (where saturation shows), the others image-like.
        images: folder; the whole of each image is resized to the input.
        limit: take that many of the images, evenly spread.

    Raises:
        Mnv3cError: no image can be read, or the input cannot be made from images.
    """
    rng = np.random.default_rng(seed)
    found = [
        Sample([_uniform(integer.tensor(i), rng) for i in integer.inputs], None, "range")
        for _ in range((count + 1) // 2 if network is not None else count)
    ]
    if network is None:
        return found
    mapping = graph_normalization(network, normalization(integer))
    shape = network.tensor(network.inputs[0]).shape
    for x in random_inputs(shape, count // 2, seed, mapping) if count > 1 else ():
        found.append(_sample(integer, network, x, "random"))
    if images is not None:
        files = list_images(images)
        if limit is not None and limit < len(files):
            files = [files[i * len(files) // limit] for i in range(limit)]
        for file in files:
            found.append(
                _sample(integer, network, mapping.apply(load_image(file, shape, crop=False)), "images")
            )
    return found


def normalization(integer: Graph) -> Normalization | None:
    """Bytes to what the model file takes, as the library was compiled with; ``None``: the default."""
    facts = integer.meta.get("quantization")
    stored = facts.get("normalization") if isinstance(facts, Mapping) else None
    if not isinstance(stored, Mapping):
        return None
    return Normalization(tuple(stored["scale"]), tuple(stored["shift"]))


def _sample(integer: Graph, network: Graph, x: np.ndarray, source: str) -> Sample:
    if len(integer.inputs) != 1:
        raise Mnv3cError(f"{len(integer.inputs)} inputs; images are for one", integer.name)
    array = library_input(integer, network, x)
    return Sample([array], network_input(integer, network, array), source)


def library_input(integer: Graph, network: Graph, x: np.ndarray) -> np.ndarray:
    """The nearest that the library's input can stand for, of a float network input ``(H, W, C)``."""
    tensor = integer.tensor(integer.inputs[0])
    if tensor.dtype == "float32":
        return input_affine(network).undo(x).astype(np.float32)
    if tensor.dtype == "uint8":
        # A library input of bytes is a byte, whatever its zero point was rounded to.
        mapping = graph_normalization(network, normalization(integer))
        return np.clip(np.rint(mapping.undo(x)), 0, 255).astype(np.uint8)
    scale, zero_point = _quant(tensor)
    low, high = np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max
    return np.clip(np.rint(x / scale) + zero_point, low, high).astype(tensor.dtype)


def library_inputs(
    integer: Graph, network: Graph | None, normalize: Normalization | None, images: np.ndarray
) -> np.ndarray:
    """What the library takes, for bytes ``(N, H, W, C)``.

    Args:
        network: the float graph; ``None`` for a model that came quantised.
        normalize: bytes to what the model file takes; ``None``: the default.
    """
    tensor = integer.tensor(integer.inputs[0])
    if network is not None:
        mapping = graph_normalization(network, normalize)
        return library_input(integer, network, mapping.apply(images))
    if tensor.dtype == "uint8":
        return images
    values = (normalize or Normalization()).apply(images)
    if tensor.dtype == "float32":
        return values
    scale, zero_point = _quant(tensor)
    limits = np.iinfo(tensor.dtype)
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(tensor.dtype)


def byte_levels(integer: Graph, network: Graph | None, normalize: Normalization | None = None) -> np.ndarray:
    """What the library's input holds for each byte of each colour, ``[256, 3]`` of the input's dtype."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return library_inputs(integer, network, normalize or normalization(integer), ramp[None, :, None])[0, :, 0]


def network_input(integer: Graph, network: Graph, array: np.ndarray) -> np.ndarray:
    """The float network input that a library input stands for, float32 ``(H, W, C)``."""
    tensor = integer.tensor(integer.inputs[0])
    if tensor.dtype == "float32":
        return input_affine(network).apply(array)
    if tensor.dtype == "uint8":
        return graph_normalization(network, normalization(integer)).apply(array)
    return real(tensor, array)


def real(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """The real numbers that integers stand for, float32."""
    if tensor.dtype == "float32":
        return array
    scale, zero_point = _quant(tensor)
    return ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)


def _quant(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if tensor.quant is None:
        raise Mnv3cError("integers without a scale", f"tensor {tensor.name}")
    return np.asarray(tensor.quant.scale, np.float64), np.asarray(tensor.quant.zero_point, np.float64)


def _uniform(tensor: Tensor, rng: np.random.Generator) -> np.ndarray:
    kind: Any = np.dtype(tensor.dtype)
    if tensor.dtype == "float32":
        return rng.normal(0.0, 2.0, tensor.shape).astype(np.float32)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, tensor.shape, dtype=kind, endpoint=True)
