"""Dense convolution with a window: the first layer. Its windows are gathered, then multiplied as a 1x1.

Knobs: those of the kernel in `pointwise.py`.
"""

from mnv3c.tuning import space

pointwise = space.table_of("pointwise")


def depth(op):
    """Values of a window; `i8mm` gathers the first layer's in whole groups of 8."""
    height, width = op.pair("kernel")
    values = height * width * op.number("in")
    row = (3 * op.pair("stride")[1] + width) * op.number("in")
    first_layer = row <= 64 and values <= 64
    return -(-values // 8) * 8 if op.path == "i8mm" and first_layer else values


def legal(op, target):
    if op.path == "neon":
        return {}
    return pointwise.inner(op, depth(op), op.number("out"), "channel")


def default(op, target):
    return {}


def candidates(op, target):
    return pointwise.worthwhile(legal(op, target), target)
