"""Dense convolution with a window: the first layer. Its windows are gathered, then multiplied as a 1x1.

Knobs and their rules: those of the kernel in `pointwise.py`, and its `workers`.
"""

from mnv3c.schedules import table_of

pointwise = table_of("pointwise")


def first_layer(op):
    """Whether the windows of 4 neighbours are short enough to be gathered by table look-up."""
    height, width = op.pair("kernel")
    row = (3 * op.pair("stride")[1] + width) * op.number("in")
    return row <= 64 and height * width * op.number("in") <= 64


def depth(op):
    """Values of a window; `i8mm` gathers the first layer's in whole groups of 8."""
    height, width = op.pair("kernel")
    values = height * width * op.number("in")
    return -(-values // 8) * 8 if op.path == "i8mm" and first_layer(op) else values


def legal(op, target):
    if op.path == "neon":
        return {}
    return {**pointwise.inner(op, depth(op), op.number("out"), "channel"), "workers": pointwise.WORKERS}


def default(op, target):
    """Every knob's value. What a key does not say is taken as in ``pointwise.py``, windows as not dilated."""
    if op.path == "neon":
        return {}
    columns = -(-op.number("width") // 4)
    # Only the first layer's result goes to matrix operands; that of others is made of tiles.
    paired = first_layer(op)
    kernel = pointwise.default_inner(
        op, target, depth(op), op.number("out"), "channel", columns, paired=paired
    )
    return {**kernel, "workers": pointwise.default_workers()}


def candidates(op, target):
    return pointwise.worthwhile(legal(op, target), target)
