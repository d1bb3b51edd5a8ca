"""Paths by name. Imported on use: a path's Python is as long as its kernels are many."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import cast

from mnv3c.codegen.program import Path
from mnv3c.errors import Mnv3cError

# In the order in which run-time choice prefers them.
KNOWN = ("i8mm", "dotprod", "neon", "armv7", "ref")


def available() -> tuple[str, ...]:
    """Names of the paths that this version has, best first."""
    return tuple(p for p in KNOWN if importlib.util.find_spec(f"mnv3c.paths.{p}") is not None)


def load(name: str) -> Path:
    """The path of that name; raises ``Mnv3cError`` if there is none."""
    if name not in available():
        raise Mnv3cError(f"unknown path {name!r} (known: {', '.join(available())})", "--path")
    return cast(Path, importlib.import_module(f"mnv3c.paths.{name}"))


def choose(wanted: Sequence[str], run_time_choice: bool) -> tuple[str, ...]:
    """Of a target's paths, best first, those that a library for it carries.

    A platform that chooses at run time carries all that can be told apart on a CPU; ``ref`` is left
    out where ``neon`` is there, because every CPU that could fall back to it runs ``neon`` too.
    """
    usable = tuple(p for p in wanted if p in available())
    if not run_time_choice:
        return usable[:1]
    return tuple(p for p in usable if p != "ref") if "neon" in usable else usable
