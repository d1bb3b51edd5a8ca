"""A camera's frame as the generated C takes it: ``<name>_frame``, and planes cut to what may be read."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from mnv3c.camera import FITS, FORMATS, RANGES, Frame
from mnv3c.errors import Mnv3cError
from mnv3c.runners.library import Library

# Of ``<name>_frame``: pointers, strides, five numbers, three bytes, rounded up.
FRAME_BYTES = 64


def check_frame(library: Library, frame: Frame) -> None:
    """Raise ``Mnv3cError`` where the library has no camera, or one of another format."""
    camera = library.manifest.get("camera")
    if camera is None:
        raise Mnv3cError("was compiled without --camera", library.name)
    if camera["format"] != frame.format:
        raise Mnv3cError(f"takes {camera['format']} frames, not {frame.format}", library.name)


def readable(frame: Frame) -> list[np.ndarray]:
    """The bytes of each plane up to the last that belongs to a pixel."""
    f = FORMATS[frame.format]
    return [
        p.reshape(-1)[: p.size - p.shape[1] + f.plane_bytes(i, frame.width)]
        for i, p in enumerate(frame.planes)
    ]


def pack_frame(frame: Frame, planes: Sequence[int], *, pointer: str = "Q") -> bytes:
    """The struct, little-endian.

    Args:
        planes: their addresses.
        pointer: ``Q`` for 64 bits, ``I`` for 32.
    """
    numbers = [*frame.strides, frame.width, frame.height, frame.rotation, FITS.index(frame.fit)]
    if FORMATS[frame.format].yuv:
        numbers.append(RANGES.index(frame.range))
    layout = f"<{len(planes)}{pointer}{len(numbers)}i3B"
    return struct.pack(layout, *planes, *numbers, *frame.pad).ljust(FRAME_BYTES, b"\0")
