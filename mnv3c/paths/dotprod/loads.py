"""Whether the compiler may load two neighbouring vectors by one instruction (LDP)."""

from __future__ import annotations

from mnv3c.paths.common.knobs import Knob
from mnv3c.schedules import table_of

# The macro of the prologue.
SINGLE_LOADS = "MNV3C_SINGLE_LOADS"


def loads_of(knob: Knob) -> tuple[str, str]:
    """What the knob ``pairs`` adds to a kernel's name, and C before the kernel's definition.

    By LLVM's model of the A55 a pair of 16-byte loads keeps the load unit busy for 6 cycles, two single ones
    for 2. Compilers join them where they can, and only an attribute of the function keeps them from it.
    """
    apart = knob("pairs", table_of("pointwise").default_pairs()) == "single"
    return ("_single", f"{SINGLE_LOADS} ") if apart else ("", "")
