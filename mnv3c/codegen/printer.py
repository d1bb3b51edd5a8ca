"""A lowered program as text, for people (``--dump-ir``): stages, and the memory map."""

from __future__ import annotations

from mnv3c.codegen.memory import MemoryPlan
from mnv3c.codegen.program import Program


def print_program(program: Program, memory: MemoryPlan) -> str:
    """One line a stage, then one a region with its offset and the stages in which it is alive."""
    lines = [f"path {program.path}: {len(program.stages)} stages, arena {memory.arena_bytes} bytes"]
    for i, stage in enumerate(program.stages):
        scratch = sum(r.bytes for r in stage.scratch)
        constants = sum(c.data.nbytes for c in stage.constants)
        lines.append(
            f"  {i:3} {stage.name}: {', '.join(stage.writes)} <- {', '.join(stage.reads)}"
            f"  # {stage.title}; scratch {scratch}, constants {constants}, parts {stage.parts}"
        )
    lines.append("memory")
    for p in memory.placements:
        lines.append(
            f"  {p.offset:8}..{p.offset + p.region.bytes:<8} stages {p.first:3}..{p.last:<3} {p.region.name}"
        )
    return "\n".join(lines) + "\n"
