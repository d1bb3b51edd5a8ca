"""Names of zoo models: ``<architecture>[_<width>][_<resolution>]``, such as ``mobilenet_v2_0.75_192``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.zoo.table import ARCHITECTURES

DEFAULT_RESOLUTION = 224
DEFAULT_CLASSES = 1000
_NAME = re.compile(r"(?P<base>[a-z0-9_]+?)(?:_(?P<width>\d+\.\d+))?(?:_(?P<resolution>\d{2,4}))?$")


@dataclass(frozen=True)
class ZooModel:
    """A name taken apart, with options applied.

    Attributes:
        architecture: a key of ``ARCHITECTURES``.
        width: channel multiplier, 0.1 to 4.
        resolution: height and width of the input in pixels, 32 to 2048.
        classes: logits, 1 to 100,000; ``None`` for as many as the weights have, or 1000.
    """

    architecture: str
    width: float = 1.0
    resolution: int = DEFAULT_RESOLUTION
    classes: int | None = None

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
    in_name_width = float(match["width"]) if match["width"] else None
    in_name_resolution = int(match["resolution"]) if match["resolution"] else None
    for option, given, in_name in (
        ("width", width, in_name_width),
        ("resolution", resolution, in_name_resolution),
    ):
        if given is not None and in_name is not None and given != in_name:
            raise Mnv3cError(f"the name says {option} {in_name}, the option {given}", name)
    model = ZooModel(
        match["base"],
        next((w for w in (width, in_name_width) if w is not None), 1.0),
        next((r for r in (resolution, in_name_resolution) if r is not None), DEFAULT_RESOLUTION),
        classes,
    )
    for option, value, low, high in (
        ("width", model.width, 0.1, 4.0),
        ("resolution", model.resolution, 32, 2048),
        ("classes", DEFAULT_CLASSES if classes is None else classes, 1, 100_000),
    ):
        if not low <= value <= high:
            raise Mnv3cError(f"{option} {value} is not between {low} and {high}", name)
    return model


def unknown(name: str) -> str:
    """The message for a name that is neither a file nor in the zoo."""
    close = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the zoo has {', '.join(ARCHITECTURES)}"
    return f"no such file, and not a zoo model; {hint}"
