"""Dense convolution with a window: the first layer. Its windows are gathered, then multiplied as a 1x1.

Knobs: those of the kernel in `pointwise.py`.
"""

from mnv3c.tuning import space

pointwise = space.table_of("pointwise")


def legal(op, target):
    height, width = op.pair("kernel")
    return pointwise.inner(op, height * width * op.number("in"), op.number("out"), "channel")


def default(op, target):
    return {}


def candidates(op, target):
    return pointwise.worthwhile(legal(op, target))
