"""From an imported Relax module to a module of composites, one for each operator of the float graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mnv3c.frontend.relax_passes.activations import activations
from mnv3c.frontend.relax_passes.clip_forms import clip_forms
from mnv3c.frontend.relax_passes.expand_batch_norm import expand_batch_norm
from mnv3c.frontend.relax_passes.fold_affine import fold_affine
from mnv3c.frontend.relax_passes.fold_constants import fold_constants
from mnv3c.frontend.relax_passes.fold_padding import fold_padding
from mnv3c.frontend.relax_passes.four_dimensions import four_dimensions
from mnv3c.frontend.relax_passes.global_pool import global_pool
from mnv3c.frontend.relax_passes.input_affine import input_affine
from mnv3c.frontend.relax_passes.partition import partition_activations, partition_operators

PASSES = (
    fold_constants,
    clip_forms,
    expand_batch_norm,
    fold_padding,
    four_dimensions,
    global_pool,
    input_affine,
    activations,
    partition_activations,
    fold_affine,
    partition_operators,
)


def run_passes(mod: Any, observe: Callable[[str, str], None] | None = None) -> Any:
    """Apply ``PASSES`` in order; ``observe(pass_name, script)`` sees the module after each, as TVMScript."""
    for step in PASSES:
        mod = step(mod)
        if observe is not None:
            observe(f"relax-{step.__name__}", mod.script(show_meta=False))
    return mod
