"""Matrix times vector: SE layers, the classifier.

| knob    | values             | what it does                                                        |
|---------|--------------------|---------------------------------------------------------------------|
| `quads` | 1, 2, 3, 4, 5, 6   | groups of 4 outputs whose sums are in registers together            |
| `pairs` | `joined`, `single` | neighbouring vectors loaded by one instruction, or each by its own  |
"""

from mnv3c.tuning import space
from mnv3c.tuning.space import divisors

pointwise = space.table_of("pointwise")


def legal(op, target):
    if op.path == "neon":
        return {}
    return {"quads": divisors(-(-op.number("out") // 4), 6), "pairs": ("joined", "single")}


def default(op, target):
    return {}


def candidates(op, target):
    return pointwise.worthwhile(legal(op, target), target)
