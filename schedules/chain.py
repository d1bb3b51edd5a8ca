"""Several blocks as one stage: each computes the rows that the next one wants, when it wants them.

Knobs: those of each block in `block.py`, behind the block's number and a dot; the first layer of a network,
where it is part of the first block, has those of `convolution.py` behind `stem.`.
"""

from mnv3c.tuning import space
from mnv3c.tuning.space import Op

block = space.table_of("block")


def links(op):
    """Number and dot, and the operator, of each block."""
    numbers = sorted({int(name.partition(".")[0]) for name, _ in op.shape})
    for number in numbers:
        prefix = f"{number}."
        shape = ((k.removeprefix(prefix), v) for k, v in op.shape if k.startswith(prefix))
        yield prefix, Op("block", op.path, tuple(shape))


def legal(op, target):
    return {f"{p}{k}": v for p, one in links(op) for k, v in block.legal(one, target).items()}


def default(op, target):
    return {}


def candidates(op, target):
    return {f"{p}{k}": v for p, one in links(op) for k, v in block.candidates(one, target).items()}
