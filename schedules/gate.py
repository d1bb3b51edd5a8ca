"""The gate of a squeeze-excite layer.

| knob      | values             | what it does                                                        |
|-----------|--------------------|---------------------------------------------------------------------|
| `unroll`  | 1, 2, 4            | groups of 4 channels a turn of the inner loop                       |
| `pairs`   | `joined`, `single` | neighbouring vectors loaded by one instruction, or each by its own  |
| `workers` | 1 to 4             | as in `pointwise.py`                                                |
"""

from mnv3c.schedules import table_of

pointwise = table_of("pointwise")


def default_unroll(quads: int) -> int:
    """As many groups of 4 channels a turn as divide them all."""
    return next(u for u in (4, 2, 1) if quads % u == 0)


def legal(op, target):
    if op.path == "neon":
        return {}
    quads = -(-op.number("channels") // 4)
    # The operands of matrix products are made of two groups.
    least = 2 if op.path == "i8mm" and quads % 2 == 0 else 1
    return {
        "unroll": tuple(u for u in (1, 2, 4) if u >= least and quads % u == 0),
        "pairs": ("joined", "single"),
        "workers": pointwise.WORKERS,
    }


def default(op, target):
    """Every knob's value."""
    if op.path == "neon":
        return {}
    return {
        "unroll": default_unroll(-(-op.number("channels") // 4)),
        "pairs": pointwise.default_pairs(),
        "workers": pointwise.default_workers(),
    }


def candidates(op, target):
    return pointwise.worthwhile(legal(op, target), target)
