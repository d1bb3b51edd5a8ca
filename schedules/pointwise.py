"""1x1 convolution of a map, with what follows it; alone, or inside of a block (``block.py``).

| knob     | values                   | what it does                                                       |
|----------|--------------------------|--------------------------------------------------------------------|
| `tile`   | `8x12`, `12x8`, ...      | register tile: pixels x output channels                            |
| `unroll` | 1, 2, ...                | groups of 4 (`i8mm`: 8) input channels a turn of the inner loop    |
| `loads`  | `grouped`, `ahead`       | loads before their products, or one step ahead and among products  |
| `pairs`  | `joined`, `single`       | neighbouring vectors loaded by one instruction, or each by its own |
| `start`  | `table`, `registers`     | initial sums: from a small table on the stack, or copied           |
| `chunk`  | blocks, or rows of them  | input that stays in L1 while all weights stream past it            |
| `chunk`  | `neon`: blocks of 8      | output channels whose weights stay in L1 while all pixels pass     |
| `workers`| 1 to 4                   | how many the layer is cut for: its shares run at the same time     |

`workers` is not searched: costs are those of one worker, for whom one share is best.
"""

from collections.abc import Sequence

from mnv3c.codegen.program import Schedule
from mnv3c.paths.common.knobs import tile_name, tile_sizes
from mnv3c.paths.common.shares import MOST
from mnv3c.paths.dotprod.chunks import MULTIPLE, Chunks, Walk, divisions, even_chunks
from mnv3c.paths.dotprod.layout import BLOCKS
from mnv3c.paths.neon.tile import Depth
from mnv3c.schedules import Op, Table, Value, divisors, spread
from mnv3c.targets import Target

# Sums of a tile: 4 pixels by 4 channels are 4 registers; beside 24 there is room for operands.
_REGISTERS_FOR_SUMS = 24
_STRAIGHT = 10  # groups of input channels up to which the inner loop is unrolled as a whole without a search
_LONGEST = 50  # the same for a search: 50 groups are 4 to 6 kB of code

# Bytes of a 32 KiB L1 with 4 ways for a chunk of the input and the lines that a group of output channels
# writes, and for these with the weights of a group and of the next one.
_CHUNK_BYTES = 26 * 1024
_L1_BYTES = 31 * 1024
_LINE = 64
# What a further pass over the weights costs, beside the whole stage.
_PASS = 0.05
# Of `neon`: weights of a chunk of output channels, beside inputs and outputs.
_WEIGHT_BYTES = 12 * 1024

# Bytes of a chunk that a search tries, and how many sizes at most.
_TRIAL_BYTES = (6 * 1024, 128 * 1024)
_MOST_SIZES = 12

WORKERS = range(1, MOST + 1)


def _groups(channels: int) -> int:
    return -(-channels // 4)


# The rules: what a kernel uses where no search has chosen. The paths ask them with a layer's own numbers.


def default_tile(quads: int, paired: bool = False) -> str:
    """Three groups of 4 output channels if they divide, else two or one, and pixels until 24 sums are used.

    Args:
        quads: groups of 4 output channels.
        paired: they are stored as operands of matrix products, which are made of two groups.
    """
    group = 2 if paired else next(n for n in (3, 2, 1) if quads % n == 0)
    return tile_name({3: 8, 2: 12, 1: 16}[group], 4 * group)


def default_unroll(quads: int) -> int:
    """All of a few groups of 4 input channels: then there is no loop. Of many, few enough for the code."""
    if quads <= _STRAIGHT:
        return quads
    return next(u for u in (6, 4, 2, 3, 5, 7, 1) if quads % u == 0)


def default_unroll_i8mm(octets: int) -> int:
    """Likewise for groups of 8; the number that leaves the fewest groups over, of equal ones the largest."""
    return octets if octets <= _STRAIGHT else min((6, 5, 4), key=lambda u: (octets % u, -u))


def default_loads(in_order: bool) -> str:
    """A core that issues in order waits for a load that comes right before its product."""
    return "ahead" if in_order else "grouped"


def default_pairs() -> str:
    """One instruction less. Where in-order cores do better with single loads, a search finds it."""
    return "joined"


def default_workers(own_memory: bool = False, small: bool = False) -> int:
    """As many as phones have fast cores; one if each needs memory of its own and that shall be ``small``."""
    return 1 if own_memory and small else MOST


def default_start(lanes: str, steps: int, edge: bool, loads: str) -> str:
    """A table is worth its preparation from a few tiles a row on; a pixel-minor result always takes it.

    Args:
        lanes: ``pixel`` or ``channel``: what the result has side by side.
        steps: whole tiles in a row.
        edge: whether rows end inside of a block.
        loads: the knob; the kernel that loads ahead has no table.
    """
    worth = lanes == "pixel" or steps > 1 or edge
    return "table" if worth and loads == "grouped" else "registers"


def default_chunks(walk: Walk, multiple: int, groups: int, group_bytes: int, workers: int = MOST) -> Chunks:
    """Few chunks that stay in L1, and fair shares of them. Their size is the knob ``chunk``.

    Args:
        walk: the units that chunks are made of.
        multiple: what every chunk's size but the last one's is a multiple of.
        groups: of output channels.
        group_bytes: weights of a group.
        workers: the knob.
    """
    room = min(_CHUNK_BYTES, _L1_BYTES - 2 * group_bytes)
    most = max(room // (walk.unit * (walk.block_bytes + _LINE)), multiple)
    fitting = {n: c for n, c in even_chunks(walk.units, multiple).items() if max(c) <= most}
    choices = [c for even in fitting.values() for c in divisions(walk.units, *even, groups, workers)]
    # Of equal ones that with the fewest shares of pixels, then the fewest passes.
    choices.sort(key=lambda c: c.pixels.parts)
    return min(choices, key=lambda c: c.longest * (1 + _PASS * (c.passes - min(fitting))))


def default_chunk_neon(blocks: int, block_bytes: int) -> int:
    """All output channels at once if their weights nearly stay in L1, else equal chunks that do.

    Args:
        blocks: of 8 output channels.
        block_bytes: constants of a block.
    """
    if blocks * block_bytes <= 2 * _WEIGHT_BYTES:
        return blocks
    most = max(1, _WEIGHT_BYTES // block_bytes)
    return -(-blocks // -(-blocks // most))


# What the kernels can do.


def tiles(op: Op, out: int, lanes: str) -> tuple[str, ...]:
    """Register tiles for ``out`` output channels; ``lanes`` as in ``paths/dotprod/pointwise.py``."""
    quads = [q for q in (1, 2, 3, 4, 6) if _groups(out) % q == 0]
    if op.path == "i8mm":
        # A matrix operand is 8 channels of an activation: the result has to be made in such pairs.
        quads = [2] if lanes == "channel" and _groups(out) % 2 == 0 else [q for q in quads if q <= 3]
    most = _REGISTERS_FOR_SUMS // 4
    return tuple(tile_name(4 * b, 4 * q) for q in quads for b in range(1, most + 1) if b * q <= most)


def unrolls(op: Op, depth: int) -> tuple[int, ...]:
    """Turns of the inner loop over ``depth`` input channels."""
    groups = _groups(depth) // 2 if op.path == "i8mm" else _groups(depth)
    turns = tuple(range(1, min(groups, _STRAIGHT) + 1)) if op.path == "i8mm" else divisors(groups, _STRAIGHT)
    return (*turns, groups) if _STRAIGHT < groups <= _LONGEST else turns


def inner(op: Op, depth: int, out: int, lanes: str, prefix: str = "") -> Table:
    """The knobs of the kernel alone, for ``depth`` input and ``out`` output channels."""
    table: dict[str, Sequence[Value]] = {f"{prefix}tile": tiles(op, out, lanes)}
    if unrolls(op, depth):
        table[f"{prefix}unroll"] = unrolls(op, depth)
    if op.path == "dotprod":
        table[f"{prefix}loads"] = ("grouped", "ahead")
        table[f"{prefix}start"] = ("registers", "table")
        table[f"{prefix}pairs"] = ("joined", "single")
    return table


def default_inner(
    op: Op,
    target: Target,
    depth: int,
    out: int,
    lanes: str,
    columns: int,
    prefix: str = "",
    *,
    paired: bool = True,
    edge: bool = False,
) -> Schedule:
    """The values of ``inner``'s knobs.

    Args:
        columns: blocks of a row that the kernel computes.
        paired: of `i8mm`: whether a result of an even number of groups is stored as matrix operands.
        edge: as for ``default_start``.
    """
    quads = _groups(out)
    if op.path == "i8mm":
        found: Schedule = {"tile": default_tile(quads, paired and lanes == "channel" and quads % 2 == 0)}
        if octets := _groups(depth) // 2:
            found = {**found, "unroll": default_unroll_i8mm(octets)}
        return {f"{prefix}{k}": v for k, v in found.items()}
    tile, loads = default_tile(quads), default_loads(in_order(target))
    found = {
        "tile": tile,
        "unroll": default_unroll(_groups(depth)),
        "loads": loads,
        "start": default_start(lanes, steps(tile, columns), edge, loads),
        "pairs": default_pairs(),
    }
    return {f"{prefix}{k}": v for k, v in found.items()}


def steps(tile: str, columns: int) -> int:
    """Whole tiles in a row of ``columns`` blocks of 4 pixels."""
    return columns // min(tile_sizes(tile)[0] // 4, columns)


def in_order(target: Target) -> bool:
    """Whether the core issues instructions in their order: then it matters which loads are joined."""
    return target.core is not None and target.core.pipeline == "in-order"


def worthwhile(table: Table, target: Target) -> Table:
    """A kernel's knobs without values that never win: tiny tiles, short turns; and without ``workers``."""
    kept = {knob: values for knob, values in table.items() if not knob.endswith("workers")}
    for knob, values in tuple(kept.items()):
        if knob.endswith("tile"):
            areas = {v: _area(str(v)) for v in values}
            kept[knob] = tuple(v for v in values if 2 * areas[v] >= max(areas.values()))
        if knob.endswith("unroll"):
            kept[knob] = tuple(values)[-4:]
        if knob.endswith("pairs") and not in_order(target):
            kept[knob] = ("joined",)
    return kept


def _area(tile: str) -> int:
    pixels, channels = tile_sizes(tile)
    return pixels * channels


def blocks(op: Op) -> int:
    """Blocks of 4 pixels in a map."""
    height, width = op.pair("block")
    return -(-op.number("height") // height) * -(-op.number("width") // width)


def walk_of(op: Op) -> Walk:
    """The units of its input that chunks are made of."""
    size = (op.number("height"), op.number("width"), op.number("in"))
    return Walk.over(size, BLOCKS[op.text("block")], op.path == "i8mm")


def legal(op, target):
    if op.path == "neon":
        return legal_neon(op)
    pooled = op.number("sum") == 1
    table = dict(inner(op, op.number("in"), op.number("out"), "pixel" if pooled else "channel"))
    if not pooled:
        table["chunk"] = range(1, blocks(op) + 1)
    return {**table, "workers": WORKERS}


def legal_neon(op):
    """Of a matrix product on `neon`; that of ``vector.py`` is the same kernel."""
    return {"chunk": range(1, max(op.number("out") // 8, 1) + 1), "workers": WORKERS}


def default_neon(op):
    """As ``legal_neon``."""
    # A channel's constants end with bias and multiplier, what h-swish multiplies by, and its zero point.
    parameters = {"hswish": 7, "none": 5, "table": 5}.get(op.text("then"), 4)
    block_bytes = 8 * (Depth.of(op.number("in")).bytes + parameters)
    chunk = default_chunk_neon(op.number("out") // 8, block_bytes)
    return {"chunk": chunk, "workers": default_workers()}


def default(op, target):
    """Every knob's value.

    What a key does not say is taken for what it nearly always is: weights of 8 bits (imported networks may
    have 9); a result that the caller or a matrix product reads (on `i8mm` one that a depthwise convolution
    reads is not ``paired``); on `neon` constants in 16 bits, with a zero point.

    A last chunk that is shorter than the others has a kernel of its own, for which the rule of ``start`` is
    asked again; the value here is that of the others.
    """
    if op.path == "neon":
        return default_neon(op)
    depth, out = op.number("in"), op.number("out")
    if op.number("sum"):
        return {**default_inner(op, target, depth, out, "pixel", blocks(op)), "workers": default_workers()}
    walk = walk_of(op)

    def kernel(units):
        return default_inner(op, target, depth, out, "channel", walk.row(units), edge=walk.edge > 0)

    tile = kernel(MULTIPLE)["tile"]
    group = tile_sizes(tile)[1] // 4
    weights = 32 * -(-depth // 8) if op.path == "i8mm" else 16 * _groups(depth)
    multiple = walk.multiple(steps(tile, MULTIPLE))
    chunks = default_chunks(walk, multiple, _groups(out) // group, group * weights)
    return {**kernel(chunks.size), "chunk": chunks.size, "workers": default_workers()}


def candidates(op, target):
    if op.path == "neon":
        return {"chunk": spread(max(op.number("out") // 8, 1), 10)}
    table = dict(worthwhile(legal(op, target), target))
    if "chunk" in table:
        table["chunk"] = even_sizes(walk_of(op))
    return table


def even_sizes(walk: Walk) -> tuple[int, ...]:
    """Sizes of chunks that cut a map in 1, 2, 3, ... about equal ones; some of those worth a trial."""
    low, high = (limit // (walk.unit * walk.block_bytes) for limit in _TRIAL_BYTES)
    sizes = sorted({-(-walk.units // n) for n in range(1, walk.units + 1)})
    worth = [n for n in sizes if low <= n <= high] or sizes[-1:]
    count = min(len(worth), _MOST_SIZES)
    return tuple(worth[i * (len(worth) - 1) // max(count - 1, 1)] for i in range(count))
