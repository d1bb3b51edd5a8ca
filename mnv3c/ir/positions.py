"""Where an output pixel of a resize lies in its input: exact, in whole numbers.

The conventions are those of ONNX's ``Resize`` (``coordinate_transformation_mode``, ``nearest_mode``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COORDINATES = ("align_corners", "half_pixel", "asymmetric")
ROUNDINGS = ("floor", "ceil", "half_down", "half_up")


@dataclass(frozen=True, eq=False)
class Positions:
    """Source positions along one axis, ``numerator / denominator``, within the input.

    Attributes:
        numerator: int64 ``[out]``.
        denominator: positive.
        size: of the input.
    """

    numerator: np.ndarray
    denominator: int
    size: int

    def weights(self, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """Index of the neighbour below and the weight of the one above, in ``2**-bits``, halves up."""
        below, rest = np.divmod(self.numerator, self.denominator)
        return below, (2 * (rest << bits) + self.denominator) // (2 * self.denominator)

    def fractions(self) -> tuple[np.ndarray, np.ndarray]:
        """Index of the neighbour below and the weight of the one above, as a real."""
        below, rest = np.divmod(self.numerator, self.denominator)
        return below, rest / self.denominator

    def above(self, below: np.ndarray) -> np.ndarray:
        """Index of the other neighbour; at the end the same."""
        return np.minimum(below + 1, self.size - 1)

    def nearest(self, rounding: str) -> np.ndarray:
        """Index of the nearest pixel; ``rounding`` is one of ``ROUNDINGS``."""
        n, d = self.numerator, self.denominator
        index = {
            "floor": n // d,
            "ceil": -(-n // d),
            "half_down": -((d - 2 * n) // (2 * d)),
            "half_up": (2 * n + d) // (2 * d),
        }[rounding]
        return np.clip(index, 0, self.size - 1)


def positions(size: int, out: int, coordinates: str) -> Positions:
    """Source positions of ``out`` pixels over ``size`` ones; ``coordinates`` is one of ``COORDINATES``."""
    i = np.arange(out, dtype=np.int64)
    if coordinates == "align_corners":
        numerator, denominator = i * (size - 1), max(out - 1, 1)
    elif coordinates == "half_pixel":
        numerator, denominator = (2 * i + 1) * size - out, 2 * out
    else:
        numerator, denominator = i * size, out
    return Positions(np.clip(numerator, 0, (size - 1) * denominator), denominator, size)
