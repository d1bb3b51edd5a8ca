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
| `stem.*`    |                        | of the network's first layer where it is computed here too        |
"""

from mnv3c.tuning import space
from mnv3c.tuning.space import spread

pointwise = space.table_of("pointwise")


def rows(op):
    """Rows of output blocks."""
    height = -(-op.number("height") // op.pair("stride")[0])
    return -(-height // op.pair("block_out")[0])


def quads(op):
    return -(-op.number("channels") // 4)


def depth_of_image(op):
    """Values of a window of the first layer; `i8mm` gathers them in whole groups of 8."""
    height, width = op.pair("window")
    values = height * width * op.number("image")
    return -(-values // 8) * 8 if op.path == "i8mm" else values


def legal(op, target):
    if op.path == "neon":
        sliced = op.number("in") and not op.number("out")
        return {"slices": range(1, max(op.number("channels") // 8, 1) + 1)} if sliced else {}
    table = {
        "band_rows": range(1, rows(op) + 1),
        "blocks": (1, 2, 3, 4),
        "weights": ("registers", "memory"),
        "start": ("registers", "table"),
        "pairs": ("joined", "single"),
    }
    if "image" in dict(op.shape):
        table |= pointwise.inner(op, depth_of_image(op), op.number("channels"), "channel", "stem.")
    if op.number("in"):
        table |= pointwise.inner(op, op.number("in"), op.number("channels"), "pixel", "expand.")
    if op.number("out"):
        table |= pointwise.inner(op, op.number("channels"), op.number("out"), "channel", "project.")
    elif "image" not in dict(op.shape):  # with the first layer, all channels of a band are held
        table["group"] = range(1, quads(op) + 1)
    return table


def default(op, target):
    return {}


def candidates(op, target):
    if op.path == "neon":
        return {k: spread(values[-1], 12) for k, values in legal(op, target).items()}
    table = dict(pointwise.worthwhile(legal(op, target), target))
    most = rows(op)
    table["band_rows"] = tuple(sorted({-(-most // n) for n in range(1, most + 1)}))
    if "group" in table:
        table["group"] = tuple(n for n in spread(quads(op), 8) if n <= 24)
    return table
