"""Camera frames: pixel formats, geometry, and a frame in memory.

What ``mnv3c compile --camera`` puts into a library is described by ``docs/numerics.md`` ("Camera") and
computed bit for bit by ``mnv3c/reference/camera.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FITS = ("crop", "letterbox", "stretch")
RANGES = ("full", "limited")
ROTATIONS = (0, 90, 180, 270)
MOST_PIXELS = 65535  # a side of a frame


@dataclass(frozen=True)
class Component:
    """Where one of a pixel's three values lies.

    Attributes:
        plane: number of the plane.
        offset: bytes from the pixel's first byte in that plane.
        half: whether one value stands for 2x2 pixels.
    """

    plane: int
    offset: int
    half: bool = False


@dataclass(frozen=True)
class Format:
    """How pixels lie in memory.

    Attributes:
        name: as ``--camera`` takes it.
        planes: bytes from a pixel to the next in each plane; planes with ``half`` components have
            half the width and height, rounded up.
        components: red, green and blue, or Y, U (Cb) and V (Cr).
        meaning: of the planes, for people.
    """

    name: str
    planes: tuple[int, ...]
    components: tuple[Component, Component, Component]
    meaning: tuple[str, ...]

    @property
    def yuv(self) -> bool:
        return any(c.half for c in self.components)

    def half(self, plane: int) -> bool:
        """Whether a plane has half the width and height."""
        return any(c.half for c in self.components if c.plane == plane)

    def plane_rows(self, plane: int, height: int) -> int:
        """Rows of a plane."""
        return (height + 1) // 2 if self.half(plane) else height

    def plane_bytes(self, plane: int, width: int) -> int:
        """Bytes of a plane's row that are read, the least stride."""
        return ((width + 1) // 2 if self.half(plane) else width) * self.planes[plane]


def _packed(name: str, order: str) -> Format:
    components = (
        Component(0, order.index("r")),
        Component(0, order.index("g")),
        Component(0, order.index("b")),
    )
    return Format(name, (len(order),), components, (f"pixels of {len(order)} bytes: {', '.join(order)}",))


def _chroma_pairs(name: str, order: str) -> Format:
    components = (Component(0, 0), Component(1, order.index("u"), True), Component(1, order.index("v"), True))
    return Format(name, (1, 2), components, ("Y", f"pairs of {order[0].upper()}, {order[1].upper()}"))


FORMATS = {
    f.name: f
    for f in (
        _packed("rgb", "rgb"),
        _packed("bgr", "bgr"),
        _packed("rgba", "rgba"),
        _packed("bgra", "bgra"),
        _chroma_pairs("nv12", "uv"),
        _chroma_pairs("nv21", "vu"),
        Format(
            "i420",
            (1, 1, 1),
            (Component(0, 0), Component(1, 0, True), Component(2, 0, True)),
            ("Y", "U", "V"),
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Frame:
    """An image as a camera gives it, and how the network shall see it.

    Attributes:
        format: a key of ``FORMATS``.
        planes: uint8 ``[rows, stride]`` each.
        width, height: pixels, before the rotation.
        rotation: degrees clockwise that turn the image upright: 0, 90, 180 or 270.
        fit: one of ``FITS``: the largest centred part of the network's proportions; all of the image, with
            ``pad`` beside it; or all of it in the network's proportions.
        range: of YUV, one of ``RANGES``.
        pad: red, green and blue beside the image.
    """

    format: str
    planes: tuple[np.ndarray, ...]
    width: int
    height: int
    rotation: int = 0
    fit: str = "crop"
    range: str = "full"
    pad: tuple[int, int, int] = (0, 0, 0)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from a row to the next, of each plane."""
        return tuple(int(p.shape[1]) for p in self.planes)


def from_rgb(image: np.ndarray, format_: str = "rgb", *, rotation: int = 0, fit: str = "stretch") -> Frame:
    """A frame of uint8 ``(H, W, 3)``; as YUV by BT.601 of full range, chroma the mean of 2x2 pixels."""
    height, width, _ = image.shape
    f = FORMATS[format_]
    values = _yuv(image) if f.yuv else list(np.moveaxis(image, -1, 0))
    planes = [
        np.full((f.plane_rows(i, height), f.plane_bytes(i, width)), 255, np.uint8)
        for i in range(len(f.planes))
    ]
    for c, value in zip(f.components, values, strict=True):
        planes[c.plane][:, c.offset :: f.planes[c.plane]] = value
    return Frame(format_, tuple(planes), width, height, rotation, fit)


def _yuv(image: np.ndarray) -> list[np.ndarray]:
    """Y of every pixel, U and V of every 2x2, uint8."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    halves = []
    for chroma in ((blue - y) / 1.772 + 128, (red - y) / 1.402 + 128):
        even = np.pad(chroma, [(0, n % 2) for n in chroma.shape], mode="edge")
        halves.append(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3)))
    return [np.clip(np.rint(v), 0, 255).astype(np.uint8) for v in (y, *halves)]


def random_frame(
    rng: np.random.Generator,
    format_: str,
    width: int,
    height: int,
    *,
    smooth: bool = False,
    rotation: int | None = None,
    fit: str | None = None,
    range_: str | None = None,
) -> Frame:
    """A frame of random bytes, with strides of up to 40 bytes more than a row needs.

    Args:
        smooth: slopes and a little noise instead of noise alone.
        rotation, fit, range_: what is not given is random.
    """
    f = FORMATS[format_]
    planes = []
    for i in range(len(f.planes)):
        rows, row_bytes = f.plane_rows(i, height), f.plane_bytes(i, width)
        shape = (rows, row_bytes + int(rng.integers(0, 41)))
        plane = rng.integers(0, 256, shape, dtype=np.uint8)
        if smooth:
            slope = np.add.outer(np.arange(rows), np.arange(shape[1]) // f.planes[i]) * 0.7
            plane = np.abs((slope + plane % 8) % 510 - 255).astype(np.uint8)
        planes.append(plane)
    return Frame(
        format_,
        tuple(planes),
        width,
        height,
        int(rng.choice(ROTATIONS)) if rotation is None else rotation,
        str(rng.choice(FITS)) if fit is None else fit,
        (str(rng.choice(RANGES)) if range_ is None else range_) if f.yuv else "full",
        (int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256))),
    )
