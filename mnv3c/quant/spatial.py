"""Integer forms of the operators that move or interpolate pixels."""

from __future__ import annotations

import math

SIGMOID_TABLE = tuple(min(round(2**15 / (1.0 + math.exp(-(i - 128) / 16.0))), 32767) for i in range(257))
