"""Choices over a whole network: which convolutions are one stage, and the block shapes of its tensors.

| knob                    | values            | what it does                                                |
|-------------------------|-------------------|-------------------------------------------------------------|
| `block`                 | `2x2`, `1x4`      | pixels of a tile of the map that is read (not `neon`)       |
| `block_in`, `block_out` | `2x2`, `1x4`      | of a depthwise convolution's input and result (not `neon`)  |
| `project`               | `inside`, `apart` | the 1x1 behind a depthwise convolution in its stage, or not |
| `next`                  | `inside`, `apart` | what follows a block, or the first layer, in its stage too  |

They are in the shapes of the operators that they make (``block.py``, ``chain.py``), and are searched over the
network (``mnv3c/tuning/network.py``), so there is no ``legal`` here: only the rules without a search.
"""

from dataclasses import dataclass

# From this width on, rows are preferred where neither shape wastes a pixel: row buffers are half as high.
_WIDE = 56
# A tensor of at least so many bytes would not stay in a cache: it is better consumed row by row.
_FUSE_FROM = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """Of `neon`, what ``--memory`` changes.

    Attributes:
        bands: into how many bands of rows a stage is cut; each has scratch of its own.
        efficiency: of threads, below which a projection is a stage of its own: bands of few rows compute
            too many rows twice.
        merge: bytes of a tensor between two blocks from which on they may run as one pipeline.
    """

    bands: int
    efficiency: float
    merge: int


LIMITS = {
    "fast": Limits(bands=4, efficiency=0.85, merge=128 * 1024),
    "small": Limits(bands=2, efficiency=0.6, merge=48 * 1024),
}


def default_block(height: int, width: int) -> str:
    """The block shape that wastes the fewest pixels of a map."""
    if height % 2 or width % 2:
        return "1x4"
    if width % 4:
        return "2x2"
    return "1x4" if width >= _WIDE else "2x2"


def default_project(size: int, small: bool) -> str:
    """By the bytes of the depthwise convolution's result; ``small`` for ``--memory small``."""
    return "inside" if small or size >= _FUSE_FROM else "apart"


def default_next(size: int, small: bool) -> str:
    """By the bytes of the tensor between two blocks."""
    return "inside" if small or size >= _FUSE_FROM else "apart"


def default_next_of_stem() -> str:
    """Always: few tensors are larger than the first layer's result."""
    return "inside"


def default_project_neon(efficiency: float, memory: str) -> str:
    """By what bands leave of the threads' time (``LIMITS``)."""
    return "inside" if efficiency >= LIMITS[memory].efficiency else "apart"


def default_next_neon(size: int, scratch: int, efficiency: float, memory: str) -> str:
    """Where the scratch of all bands is no more than the tensor that it saves, and threads lose little.

    Args:
        size: bytes of the tensor between two blocks.
        scratch: bytes of a band.
        efficiency: as for ``default_project_neon``.
    """
    limits = LIMITS[memory]
    worth = limits.bands * scratch <= size and efficiency >= limits.efficiency - 0.1
    return "inside" if worth else "apart"
