"""What one form of a network costs beside another: instructions, arena, library."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mnv3c import targets
from mnv3c.bench.measure import Progress, least_core, measure, silent
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.paths import registry
from mnv3c.runners.library import open_library


@dataclass(frozen=True)
class Cost:
    """Of a library of one path.

    Attributes:
        arena_bytes: working memory.
        library_bytes: instructions and constants, compiled; ``None`` without a compiler.
        instructions: of one inference, counted; ``None`` without a compiler or an emulator.
    """

    arena_bytes: int
    library_bytes: int | None
    instructions: int | None


@dataclass(frozen=True)
class Comparison:
    """Two forms of a network on one core.

    Attributes:
        missing: why instructions and library are not known; empty if they are.
    """

    core: str
    path: str
    before: Cost
    after: Cost
    missing: str = ""


def compare(before: Graph, after: Graph, target: str, progress: Progress = silent) -> Comparison:
    """Build both with the default schedules and count one inference of each.

    Args:
        before, after: integer graphs of primitives.
        target: a core, or a platform, for which the least core that has its first path stands.
    """
    chosen = targets.get(target)
    path = registry.choose(chosen.paths, chosen.run_time_choice)[0]
    core = chosen.name if chosen.core is not None else least_core(path)
    costs: list[Cost] = []
    missing = ""
    for graph in (before, after):
        library = build_library(graph, [path], options=Options(tuning=core))
        arena = library.manifest["arena_bytes"]
        assert isinstance(arena, int)
        cost = Cost(arena, None, None)
        if not missing:
            try:
                with tempfile.TemporaryDirectory(prefix="mnv3c-compare-") as folder:
                    write_folder(Path(folder, "library"), library.files)
                    opened = open_library(Path(folder, "library"))
                    found = measure(opened, path=path, cpu=core, caches=False, progress=progress)
                size = found.sizes.text + found.sizes.rodata
                cost = Cost(arena, size, found.whole.instructions)
            except Mnv3cError as error:
                missing = str(error)
        costs.append(cost)
    return Comparison(core, path, costs[0], costs[1], missing)
