"""Depthwise convolution with the 1x1 that expands its input and the 1x1 that projects its result.

The expanded tensor lives in a window of rows (a row ring). Which of the three are computed together, and the
block shapes of the tensors (2x2 or 1x4 pixels), are chosen over the whole network.

| knob        | values                 | what it does                                                      |
|-------------|------------------------|-------------------------------------------------------------------|
| `band_rows` | rows of blocks         | output rows at a time: depth of the row ring                      |
| `group`     | groups of 4 channels   | channels whose window is held at once (without the projection)    |
| `blocks`    | 1 to 4                 | output blocks that share their loads of weights and pixels        |
| `weights`   | `registers`, `memory`  | weight-stationary, or weights from L1 and more sums in registers  |
| `start`     | `table`, `registers`   | initial sums                                                      |
| `pairs`     | `joined`, `single`     | neighbouring vectors loaded by one instruction, or each by its own |
| `expand.*`, `project.*` |            | of the 1x1 kernels, as in `pointwise.py`                          |
| `slices`    | `neon`: 1, 2, ...      | slices of channels, each through expansion and depthwise at once  |
| `workers`   | 1 to 4                 | how many it is cut for, as in `pointwise.py`                      |
| `stem.*`    |                        | of the network's first layer where it is computed here too        |
"""

from mnv3c.paths.common.knobs import tile_sizes
from mnv3c.paths.dotprod.bands import held_bytes, reach
from mnv3c.paths.dotprod.layout import BLOCKS, TILE, grid, quads, sums_in_tiles
from mnv3c.paths.dotprod.windows import plan_window
from mnv3c.paths.neon.pack import BLOCK
from mnv3c.paths.neon.shares import CANDIDATES, Shares, efficiency
from mnv3c.paths.neon.slices import slice_bytes
from mnv3c.paths.neon.windows import Geometry
from mnv3c.schedules import spread, table_of

network, pointwise = table_of("network"), table_of("pointwise")

# For window and depthwise result, beside input, weights and result in an L1 of 32 KiB. Higher bands would
# call kernels less often, but fill more lines, and each worker has a window.
_WINDOW_BYTES = 16 * 1024
# The same where memory is worth more than these calls.
_SMALL_BYTES = 6 * 1024

# Vectors that fit in registers beside a few tiles: weights, sums of two blocks, constants.
_REGISTERS = 26
_SUMS = 8
# So many weights may stay in memory while the others are in registers.
_ALMOST = 3

_GROUP = 4
_MOST_QUADS = 12
# Of a 32 KiB L1, what an input that is read again and again may take together with a window.
_L1_BYTES = 28 * 1024

# Of `neon`: weights, ring and an input row of a slice, in a first-level cache of 32 KiB.
SLICE_BYTES = 20 * 1024


# The rules: what a kernel uses where no search has chosen. The paths ask them with a layer's own numbers.


def window_room(small: bool) -> int:
    """Bytes that window and depthwise result may take; ``small`` for ``--memory small``."""
    return _SMALL_BYTES if small else _WINDOW_BYTES


def highest_band(rows: int, first: int, further: int, room: int) -> int:
    """Rows of the result whose window stays in ``room`` bytes, at least one.

    Args:
        rows: of the result's blocks.
        first, further: bytes for one row, and for each row more.
    """
    return min(max((room - first) // further + 1, 1), rows)


def default_band_rows(rows: int, highest: int) -> int:
    """As few bands as ``highest`` allows, of equal height."""
    return -(-rows // -(-rows // highest))


def default_group(count: int, x_bytes: int, row_bytes: int) -> int:
    """Groups of 4 channels whose window is held at once: their number decides how often the input is read.

    Args:
        count: of all channels.
        x_bytes: of the input of the expansion, which each group reads.
        row_bytes: of a group's window for one row of the result.
    """
    if x_bytes > _L1_BYTES:
        # It leaves the cache between two groups: few of them.
        return -(-count // -(-count // _MOST_QUADS))
    # It stays there if the window leaves room.
    return _GROUP if x_bytes + 4 * _GROUP * row_bytes <= _L1_BYTES else _GROUP // 2


def free_registers(constants: int) -> int:
    """Registers for weights beside the sums of two blocks and the ``constants`` of the epilogue."""
    return _REGISTERS - _SUMS - constants


def default_weights(vectors: int, free: int) -> str:
    """In registers if all weight vectors fit, or nearly so: loaded once, not for each block."""
    return "registers" if vectors <= free + _ALMOST else "memory"


def default_blocks(weights: str, columns: int) -> int:
    """As many as there are registers for their sums beside ``weights``, then the same number in each step."""
    most = 2 if weights == "registers" else 4
    return min(columns, -(-columns // -(-columns // most)))


def default_start() -> str:
    """A table, whatever the shape."""
    return "table"


def default_slices(blocks: int, row: int, block_bytes: int, workers: int, small: bool) -> int:
    """First small enough for the cache, then even, then few; not so few where memory is to be small.

    Args:
        blocks: of 8 channels.
        row, block_bytes: bytes of an input row, and of a block's weights and ring.
        workers: the knob.
        small: whether scratch matters more than the instructions of more calls.
    """
    options = [Shares(blocks, n) for n in (1, 2, 3, *CANDIDATES, 24, 32) if n <= blocks]
    if small:
        options = [s for s in options if s.parts >= 2 * workers] or options

    def order(s: Shares) -> tuple[bool, float, int]:
        fits = row + max(s.sizes) * block_bytes <= SLICE_BYTES
        return fits, round(efficiency(s.sizes, workers) / 0.03), -s.parts

    return max(options, key=order).parts


# What the kernels can do.


def result_size(op):
    """Height and width of the depthwise convolution's result."""
    pad = op.numbers("pad")
    ends = (op.number("height") + pad[0] + pad[2], op.number("width") + pad[1] + pad[3])
    steps = zip(ends, op.pair("kernel"), op.pair("stride"), op.pair("dilation"), strict=True)
    return tuple((end - (kernel - 1) * dilation - 1) // stride + 1 for end, kernel, stride, dilation in steps)


def rows(op):
    """Rows of output blocks."""
    return grid(result_size(op), BLOCKS[op.text("block_out")])[0]


def depth_of_image(op):
    """Values of a window of the first layer; `i8mm` gathers them in whole groups of 8."""
    height, width = op.pair("window")
    values = height * width * op.number("image")
    return -(-values // 8) * 8 if op.path == "i8mm" else values


def has_stem(op):
    """Whether the network's first layer is computed here too."""
    return "image" in dict(op.shape)


def by_channels(op):
    """Whether groups of channels are held, and not all channels of a band."""
    return not op.number("out") and not has_stem(op)


def sliced(op):
    """Whether slices of channels go through expansion and depthwise convolution on `neon`."""
    return bool(op.number("in")) and not op.number("out") and op.number("channels") % BLOCK == 0


def legal(op, target):
    if op.path == "neon":
        slices = {"slices": range(1, op.number("channels") // BLOCK + 1)} if sliced(op) else {}
        return {**slices, "workers": pointwise.WORKERS}
    table = {
        "band_rows": range(1, rows(op) + 1),
        "blocks": (1, 2, 3, 4),
        "weights": ("registers", "memory"),
        "start": ("registers", "table"),
        "pairs": ("joined", "single"),
    }
    if has_stem(op):
        table |= pointwise.inner(op, depth_of_image(op), op.number("channels"), "pixel", "stem.")
    if op.number("in"):
        table |= pointwise.inner(op, op.number("in"), op.number("channels"), "pixel", "expand.")
    if op.number("out"):
        table |= pointwise.inner(op, op.number("channels"), op.number("out"), "channel", "project.")
    if by_channels(op):
        table["group"] = range(1, quads(op.number("channels")) + 1)
    return {**table, "workers": pointwise.WORKERS}


def default(op, target):
    """Every knob's value, by the rules for ``--memory fast``.

    What a key does not say is taken for what it nearly always is: as in ``pointwise.py``, and that what
    follows the depthwise convolution adds a zero point but clamps nothing further (``_constants``).
    """
    if op.path == "neon":
        return _default_neon(op)
    block_in, block_out = BLOCKS[op.text("block_in")], BLOCKS[op.text("block_out")]
    windows = (op.pair("kernel"), op.pair("stride"), op.pair("dilation"), op.numbers("pad")[:2])
    plan = plan_window(*windows, block_in, block_out)
    rows_in, columns_in = grid((op.number("height"), op.number("width")), block_in)
    rows_out, columns_out = grid(result_size(op), block_out)
    kernels = _default_kernels(op, target, columns_in, columns_out)
    group, held = {}, quads(op.number("channels"))
    if by_channels(op):
        x_bytes = rows_in * columns_in * quads(op.number("in")) * TILE
        group["group"] = default_group(held, x_bytes, reach(plan) * columns_in * TILE)
        # The expansion makes whole groups of its own.
        unit = tile_sizes(kernels["expand.tile"])[1] // 4 if op.number("in") else 1
        held = -(-min(group["group"], held) // unit) * unit
    window = held_bytes(plan, columns_in, columns_out, held, not by_channels(op))
    highest = highest_band(rows_out, *window, window_room(small=False))
    weights = default_weights(len(plan.vectors), free_registers(_constants(op)))
    return {
        "band_rows": default_band_rows(rows_out, highest),
        "blocks": default_blocks(weights, columns_out),
        "weights": weights,
        "start": default_start(),
        "pairs": pointwise.default_pairs(),
        **kernels,
        **group,
        "workers": pointwise.default_workers(),
    }


def _default_kernels(op, target, columns_in, columns_out):
    """Of the 1x1 kernels before and behind."""
    channels, found = op.number("channels"), {}
    before = {"stem.": depth_of_image(op) if has_stem(op) else 0, "expand.": op.number("in")}
    for prefix, depth in before.items():
        if depth:
            found |= pointwise.default_inner(op, target, depth, channels, "pixel", columns_in, prefix)
    if out := op.number("out"):
        found |= pointwise.default_inner(op, target, channels, out, "channel", columns_out, "project.")
    return found


def _constants(op):
    """Registers that the depthwise convolution's epilogue keeps through a row, in the usual case."""
    then = op.text("then").split(",")[has_stem(op) + (op.number("in") > 0)]
    sums = op.number("sum") and sums_in_tiles(result_size(op), BLOCKS[op.text("block_out")])
    return 3 + bool(sums) + (3 if then == "hswish" else 0)


def _default_neon(op):
    if not sliced(op):
        return {"workers": network.LIMITS["fast"].bands}
    size = (op.number("height"), op.number("width"), op.number("channels"))
    windows = (op.pair("kernel")[0], op.pair("stride")[0], op.pair("dilation")[0])
    ring = Geometry(*size, *op.numbers("pad"), *windows, *result_size(op))
    row, channel = slice_bytes(op.number("in"), op.number("width"), ring)
    workers = pointwise.default_workers()
    slices = default_slices(op.number("channels") // BLOCK, row, channel * BLOCK, workers, small=False)
    return {"slices": slices, "workers": workers}


def candidates(op, target):
    if op.path == "neon":
        if not sliced(op):
            return {}
        # Slices are the shares of workers too: fewer save one worker a thousandth, and keep others waiting.
        every = spread(op.number("channels") // BLOCK, 12)
        return {"slices": tuple(n for n in every if n >= pointwise.MOST) or every[-1:]}
    table = dict(pointwise.worthwhile(legal(op, target), target))
    most = rows(op)
    table["band_rows"] = tuple(sorted({-(-most // n) for n in range(1, most + 1)}))
    if "group" in table:
        table["group"] = tuple(n for n in spread(quads(op.number("channels")), 8) if n <= 24)
    return table
