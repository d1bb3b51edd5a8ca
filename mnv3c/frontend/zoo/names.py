"""Names of zoo models: ``<architecture>[_<width>][_<resolution>]``, such as ``mobilenet_v2_0.75_192``.

A resolution is one number, or height and width: ``lraspp_mobilenet_v3_large_513x1025``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.zoo.table import ARCHITECTURES

_NAME = re.compile(
    r"(?P<base>[a-z0-9_]+?)(?:_(?P<width>\d+\.\d+))?(?:_(?P<resolution>\d{2,4}(?:x\d{2,4})?))?$"
)


@dataclass(frozen=True)
class ZooModel:
    """A name taken apart, with options applied.

    Attributes:
        architecture: a key of ``ARCHITECTURES``.
        width: channel multiplier, 0.1 to 4.
        size: height and width of the input in pixels, 32 to 4096.
        classes: logits, 1 to 100,000; ``None`` for as many as the weights have, or the architecture's.
    """

    architecture: str
    width: float = 1.0
    size: tuple[int, int] = (224, 224)
    classes: int | None = None

    @property
    def resolution(self) -> int | str:
        """One number for a square, else ``HxW``."""
        height, width = self.size
        return height if height == width else f"{height}x{width}"

    @property
    def name(self) -> str:
        """The full name, with width and resolution."""
        return f"{self.architecture}_{self.width}_{self.resolution}"


def parse(
    name: str, *, width: float | None = None, resolution: int | None = None, classes: int | None = None
) -> ZooModel:
    """Take a zoo name apart; options may fill in, but not contradict, what the name says.

    Raises:
        Mnv3cError: unknown name (with close matches), a contradiction, or a value out of range.
    """
    match = _NAME.match(name)
    if match is None or match["base"] not in ARCHITECTURES:
        raise Mnv3cError(unknown(name), name)
    architecture = ARCHITECTURES[match["base"]]
    in_name_width = float(match["width"]) if match["width"] else None
    in_name_size = _size(match["resolution"]) if match["resolution"] else None
    size = None if resolution is None else (resolution, resolution)
    if width is not None and in_name_width is not None and width != in_name_width:
        raise Mnv3cError(f"the name says width {in_name_width}, the option {width}", name)
    if size is not None and in_name_size is not None and size != in_name_size:
        raise Mnv3cError(f"the name says resolution {match['resolution']}, the option {resolution}", name)
    model = ZooModel(
        match["base"],
        next((w for w in (width, in_name_width) if w is not None), 1.0),
        size or in_name_size or architecture.size,
        classes,
    )
    for option, value, low, high in (
        ("width", model.width, 0.1, 4.0),
        ("resolution", min(model.size), 32, 4096),
        ("resolution", max(model.size), 32, 4096),
        ("classes", architecture.classes if classes is None else classes, 1, 100_000),
    ):
        if not low <= value <= high:
            raise Mnv3cError(f"{option} {value} is not between {low} and {high}", name)
    return model


def _size(text: str) -> tuple[int, int]:
    """``513x1025`` or ``224``."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def unknown(name: str) -> str:
    """The message for a name that is neither a file nor in the zoo."""
    close = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the zoo has {', '.join(ARCHITECTURES)}"
    return f"no such file, and not a zoo model; {hint}"
