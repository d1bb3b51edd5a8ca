"""Matrix times vector: SE layers, the classifier.

| knob      | values             | what it does                                                         |
|-----------|--------------------|----------------------------------------------------------------------|
| `quads`   | 1, 2, 3, 4, 5, 6   | groups of 4 outputs whose sums are in registers together             |
| `pairs`   | `joined`, `single` | neighbouring vectors loaded by one instruction, or each by its own   |
| `chunk`   | `neon`: 1, 2, ...  | as in `pointwise.py`, whose kernel it is; not searched for one pixel   |
| `workers` | 1 to 4             | as in `pointwise.py`                                                 |
"""

from mnv3c.schedules import divisors, table_of

pointwise = table_of("pointwise")


def default_quads(quads: int) -> int:
    """Four groups of 4 outputs if that divides them all, else five or six, else fewer."""
    return next(n for n in (4, 5, 6, 3, 2, 1) if quads % n == 0)


def legal(op, target):
    if op.path == "neon":
        return pointwise.legal_neon(op)
    quads = divisors(-(-op.number("out") // 4), 6)
    return {"quads": quads, "pairs": ("joined", "single"), "workers": pointwise.WORKERS}


def default(op, target):
    """Every knob's value; on `neon` for the usual constants, see ``pointwise.py``."""
    if op.path == "neon":
        return pointwise.default_neon(op)
    return {
        "quads": default_quads(-(-op.number("out") // 4)),
        "pairs": pointwise.default_pairs(),
        "workers": pointwise.default_workers(),
    }


def candidates(op, target):
    return {} if op.path == "neon" else pointwise.worthwhile(legal(op, target), target)
