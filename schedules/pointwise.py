"""1x1 convolution of a map, with what follows it; alone, or inside of a block (``block.py``).

| knob     | values                   | what it does                                                       |
|----------|--------------------------|--------------------------------------------------------------------|
| `tile`   | `8x12`, `12x8`, ...      | register tile: pixels x output channels                            |
| `unroll` | 1, 2, ...                | groups of 4 (`i8mm`: 8) input channels a turn of the inner loop    |
| `loads`  | `grouped`, `ahead`       | loads before their products, or one step ahead and among products  |
| `pairs`  | `joined`, `single`       | neighbouring vectors loaded by one instruction, or each by its own |
| `start`  | `table`, `registers`     | initial sums: from a small table on the stack, or copied           |
| `chunk`  | blocks of 4 pixels       | input that stays in L1 while all weights stream past it            |
| `chunk`  | `neon`: blocks of 8      | output channels whose weights stay in L1 while all pixels pass     |
"""

from collections.abc import Sequence

from mnv3c.targets import Target
from mnv3c.tuning.space import Op, Table, divisors, spread

# Sums of a tile: 4 pixels by 4 channels are 4 registers; beside 24 there is room for operands.
_REGISTERS_FOR_SUMS = 24
_STRAIGHT = 10  # groups of input channels up to which the inner loop may be unrolled as a whole


def _groups(channels: int) -> int:
    return -(-channels // 4)


def tiles(op: Op, out: int, lanes: str) -> tuple[str, ...]:
    """Register tiles for ``out`` output channels; ``lanes`` as in ``paths/dotprod/pointwise.py``."""
    quads = [q for q in (1, 2, 3, 4, 6) if _groups(out) % q == 0]
    if op.path == "i8mm":
        # A matrix operand is 8 channels of an activation: the result has to be made in such pairs.
        quads = [2] if lanes == "channel" and _groups(out) % 2 == 0 else [q for q in quads if q <= 3]
    most = _REGISTERS_FOR_SUMS // 4
    return tuple(f"{4 * b}x{4 * q}" for q in quads for b in range(1, most + 1) if b * q <= most)


def unrolls(op: Op, depth: int) -> tuple[int, ...]:
    """Turns of the inner loop over ``depth`` input channels."""
    if op.path == "i8mm":
        return tuple(range(1, min(_groups(depth) // 2, _STRAIGHT) + 1))
    return divisors(_groups(depth), _STRAIGHT)


def inner(op: Op, depth: int, out: int, lanes: str, prefix: str = "") -> Table:
    """The knobs of the kernel alone, for ``depth`` input and ``out`` output channels."""
    table: dict[str, Sequence[int | str]] = {f"{prefix}tile": tiles(op, out, lanes)}
    if unrolls(op, depth):
        table[f"{prefix}unroll"] = unrolls(op, depth)
    if op.path == "dotprod":
        table[f"{prefix}loads"] = ("grouped", "ahead")
        table[f"{prefix}start"] = ("registers", "table")
        table[f"{prefix}pairs"] = ("joined", "single")
    return table


def in_order(target: Target) -> bool:
    """Whether the core issues instructions in their order: then it matters which loads are joined."""
    return target.core is not None and target.core.pipeline == "in-order"


def worthwhile(table: Table, target: Target) -> Table:
    """A kernel's knobs without values that never win: tiny tiles, short turns."""
    kept = dict(table)
    for knob, values in table.items():
        if knob.endswith("tile"):
            areas = {v: _area(str(v)) for v in values}
            kept[knob] = tuple(v for v in values if 2 * areas[v] >= max(areas.values()))
        if knob.endswith("unroll"):
            kept[knob] = tuple(values)[-4:]
        if knob.endswith("pairs") and not in_order(target):
            kept[knob] = ("joined",)
    return kept


def _area(tile: str) -> int:
    pixels, channels = tile.split("x")
    return int(pixels) * int(channels)


def blocks(op: Op) -> int:
    """Blocks of 4 pixels in a map."""
    height, width = op.pair("block")
    return -(-op.number("height") // height) * -(-op.number("width") // width)


def legal(op, target):
    if op.path == "neon":
        return {"chunk": range(1, max(op.number("out") // 8, 1) + 1)}
    pooled = op.number("sum") == 1
    table = dict(inner(op, op.number("in"), op.number("out"), "pixel" if pooled else "channel"))
    if not pooled:
        table["chunk"] = range(1, blocks(op) + 1)
    return table


def default(op, target):
    return {}


def candidates(op, target):
    if op.path == "neon":
        return {"chunk": spread(max(op.number("out") // 8, 1), 10)}
    table = dict(worthwhile(legal(op, target), target))
    if "chunk" in table:
        table["chunk"] = tuple(n for n in spread(blocks(op), 8) if n >= 6 or n == blocks(op))
    return table
