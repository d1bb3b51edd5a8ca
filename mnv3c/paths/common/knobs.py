"""How code that makes kernels asks for the values of its knobs."""

from __future__ import annotations

from typing import Protocol, TypeVar

K = TypeVar("K", int, str)


class Knob(Protocol):
    """Called with a knob's name and the value by the path's own rule; gives the value to use."""

    def __call__(self, name: str, default: K) -> K: ...


def by_rule(name: str, default: K) -> K:
    """Every knob at its default."""
    del name
    return default


def tile_name(pixels: int, channels: int) -> str:
    """A register tile as the knob ``tile`` writes it: ``8x12`` is 8 pixels by 12 channels."""
    return f"{pixels}x{channels}"


def tile_sizes(name: str) -> tuple[int, int]:
    """Pixels and channels of a register tile."""
    pixels, channels = name.split("x")
    return int(pixels), int(channels)
