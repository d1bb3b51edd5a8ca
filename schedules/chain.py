"""Several blocks as one stage: each computes the rows that the next one wants, when it wants them.

Knobs: those of each block in `block.py`, behind the block's number and a dot; the first layer of a network,
where it is part of the first block, has those of `convolution.py` behind `stem.`. Only the last block has
`band_rows` and `workers`: the others compute what the next one wants. On `neon` it has no other knobs.
"""

from mnv3c.schedules import Op, table_of

block = table_of("block")


def links(op):
    """Number and dot, and the operator, of each block."""
    numbers = sorted({int(name.partition(".")[0]) for name, _ in op.shape})
    for number in numbers:
        prefix = f"{number}."
        shape = ((k.removeprefix(prefix), v) for k, v in op.shape if k.startswith(prefix))
        yield prefix, Op("block", op.path, tuple(shape))


def of_links(op, target, ask):
    """What ``ask`` says of each block's knobs, by the names that they have in the chain."""
    *_, (last, _) = links(op)
    found = {}
    for prefix, one in links(op):
        for knob, value in ask(one, target).items():
            of_all = knob in ("band_rows", "workers")
            if prefix == last if of_all else op.path != "neon":
                found[f"{prefix}{knob}"] = value
    return found


def legal(op, target):
    return of_links(op, target, block.legal)


def default(op, target):
    """Every knob's value; as for each block."""
    return of_links(op, target, block.default)


def candidates(op, target):
    return of_links(op, target, block.candidates)
