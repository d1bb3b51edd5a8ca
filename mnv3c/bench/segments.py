"""What a counted run reports: segments between the harness's markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnv3c.errors import Mnv3cError

# The kinds of `templates/bench/harness.c.j2`.
IDLE, RUN, LAYER, BETWEEN, PART, STACK, STATUS = range(7)
MARKER_SYSTEM_CALL = 9001


@dataclass(frozen=True)
class Memory:
    """Memory accesses of a segment, as the emulator performed them, and cache lines filled."""

    loads: int
    stores: int
    bytes_loaded: int
    bytes_stored: int
    l1_fills: int
    l2_fills: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.loads + other.loads,
            self.stores + other.stores,
            self.bytes_loaded + other.bytes_loaded,
            self.bytes_stored + other.bytes_stored,
            self.l1_fills + other.l1_fills,
            self.l2_fills + other.l2_fills,
        )


@dataclass(frozen=True)
class Segment:
    """What ran between two markers.

    Attributes:
        kind, argument: the marker that began it.
        blocks: (address, number of instructions) of translated blocks to how often each was entered.
        memory: ``None`` where the caches were not simulated.
    """

    kind: int
    argument: int
    blocks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    memory: Memory | None = None


def parse(lines: Iterable[str]) -> list[Segment]:
    """Read the plugin's output (``plugin.c`` gives the format).

    Raises:
        Mnv3cError: it is damaged.
    """
    found: list[Segment] = []
    blocks: dict[tuple[int, int], int] = {}
    try:
        for line in lines:
            letter, *fields = line.split()
            if letter == "M":
                blocks = {}
                found.append(Segment(int(fields[0]), int(fields[1]), blocks))
            elif letter == "B":
                blocks[int(fields[0], 16), int(fields[1])] = int(fields[2])
            elif letter == "C":
                last = found.pop()
                found.append(Segment(last.kind, last.argument, last.blocks, Memory(*map(int, fields))))
            else:
                raise ValueError(f"unknown record {letter!r}")
    except (ValueError, IndexError, TypeError) as error:
        raise Mnv3cError(f"damaged counts: {error}", "counting plugin") from None
    return found
