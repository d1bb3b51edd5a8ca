"""Matrix times vector: SE layers, the classifier.

| knob    | values             | what it does                                              |
|---------|--------------------|-----------------------------------------------------------|
| `quads` | 1, 2, 3, 4, 5, 6   | groups of 4 outputs whose sums are in registers together  |
"""

from mnv3c.tuning.space import divisors


def legal(op, target):
    return {} if op.path == "neon" else {"quads": divisors(-(-op.number("out") // 4), 6)}


def default(op, target):
    return {}


def candidates(op, target):
    return legal(op, target)
