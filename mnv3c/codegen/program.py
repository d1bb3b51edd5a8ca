"""What a path hands to the emitter: stages of C code over named regions of memory.

A *path* (``ref``, ``dotprod``, ``neon``, ``i8mm``) fixes instruction set and data layout. It lowers
the fused integer graph to a ``Program``; the memory planner then gives every region an offset in the
arena, and the emitter writes ``<name>_<path>.c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mnv3c.ir.graph import Graph

# Values of knobs by name (``schedules/`` lists them). A knob that is left out keeps the path's own rule.
Schedule = Mapping[str, int | str]


@dataclass(frozen=True)
class Region:
    """A stretch of memory: an activation in the path's layout, or scratch.

    Attributes:
        name: a C identifier, unique in the program. A stage's C refers to it as ``R_<name>``, a
            ``uint8_t *`` aligned to ``align``.
        bytes: size in the path's layout, padding included.
        align: bytes, a power of two up to 64.
        external: ``None`` for the arena; ``("input", i)`` or ``("output", i)`` for the caller's buffers
            (dense ``[H][W][C]``, aligned to their element only).
    """

    name: str
    bytes: int
    align: int = 16
    external: tuple[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Constant:
    """A read-only array. Equal contents are stored once, and shared by the paths of a library.

    Attributes:
        name: a C identifier; the stage's C refers to it by this name.
        data: int8, uint8, int16, int32 or float32 array; emitted flat.
        role: ``weight``, ``bias``, ``multiplier``, ``table``: for the manifest and the comments.
        align: bytes.
    """

    name: str
    data: np.ndarray
    role: str
    align: int = 16


@dataclass(frozen=True)
class Kernel:
    """A static C function, rendered; requests of one name must be equal, and are emitted once."""

    name: str
    source: str


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of ``run``: a C function body that may be split between workers.

    Attributes:
        name: a C identifier, unique in the program.
        title: one line for people: what it computes and its shapes.
        nodes: names of the integer graph's nodes that it computes.
        reads, writes: names of regions. Any region live across stages must be listed.
        scratch: regions that live during this stage alone. Shares run at the same time: what a share
            writes must be its own, so scratch has room for ``parts`` of them, found by ``part`` or
            ``share_begin``.
        in_place: pairs ``(read, write)`` that may share an address if the read region dies here.
        body: C statements. In scope: ``R_<region>`` for every region above, every constant,
            and libc's memcpy/memset. Which shares to compute is in scope in one of two forms (use one):
            ``part`` (``int32_t``, ``0 <= part < parts``), or ``share_begin`` and ``share_end``
            (``0 <= share_begin < share_end <= parts``), for work that costs less in one go: without
            ``parallel_for`` such a stage is called once for all its shares, else once a share.
        kernels: functions that the body calls.
        constants: arrays that body or kernels name.
        parts: into how many independent shares the work is split; the results are the same however
            many workers run them, in any order.
        schedule: node to the values of the knobs that shaped this stage, those at their default too.
        pulls: whether the stage takes rows of the network's input from ``state->camera_row`` where
            ``state->camera`` is set, and does not read the input then.
    """

    name: str
    title: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    body: str
    scratch: tuple[Region, ...] = ()
    in_place: tuple[tuple[str, str], ...] = ()
    kernels: tuple[Kernel, ...] = ()
    constants: tuple[Constant, ...] = ()
    parts: int = 1
    schedule: Mapping[str, Schedule] = field(default_factory=dict)
    pulls: bool = False

    @property
    def whole(self) -> bool:
        """Whether one call computes all shares where nobody splits the work."""
        return re.search(r"\bshare_begin\b", self.body) is not None


@dataclass(frozen=True, eq=False)
class Program:
    """A network lowered for one path.

    Attributes:
        regions: every activation that lives across stages, the caller's buffers among them.
        includes: system headers of the path, ``arm_neon.h`` say.
        gcc_target, clang_target: what switches the instruction set on for this file alone
            (``#pragma GCC target``, ``#pragma clang attribute``), so that a library needs no
            compiler flag of its own; empty for the baseline.
        prologue: C that precedes the kernels: types and small helpers of the path.
        notes: what people should know, a slow generic kernel for an odd layer say.
        columns, image: regions of a camera's table of columns, and of the image it makes where a stage
            cannot ask for rows; empty without (``codegen/camera.py``).
    """

    path: str
    stages: tuple[Stage, ...]
    regions: tuple[Region, ...]
    includes: tuple[str, ...] = ()
    gcc_target: str = ""
    clang_target: str = ""
    prologue: str = ""
    notes: tuple[str, ...] = ()
    columns: str = ""
    image: str = ""


@dataclass(frozen=True)
class Options:
    """What may change the code but never a result.

    Attributes:
        tuning: a core's name from ``targets/`` (``cortex-a76``), or ``generic``.
        memory: ``small`` prefers a small arena, ``fast`` prefers few instructions.
        schedules: node to the schedule that it shall have; values are legal (``mnv3c.tuning.space``).
        tuned: nodes whose schedule tuning has found; for the manifest.
        camera: stages that read the network's input row by row shall be able to take rows from a camera.
    """

    tuning: str = "generic"
    memory: str = "fast"
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    tuned: frozenset[str] = frozenset()
    camera: bool = False


class Path(Protocol):
    """How a path presents itself in ``mnv3c/paths/<name>``."""

    name: str

    def lower(self, graph: Graph, options: Options) -> Program:
        """Lower a fused integer graph. Raises ``Mnv3cError`` naming a node it cannot compute."""
        ...
