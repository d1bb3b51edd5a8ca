"""What the generated code runs on: ``targets/cores/*.toml`` and ``targets/platforms/*.toml``."""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnv3c import resources
from mnv3c.errors import Mnv3cError


@dataclass(frozen=True)
class Cache:
    """Data caches of a core in its usual configuration; sizes in KiB, a line in bytes.

    Attributes:
        l1_miss_cycles, l2_miss_cycles: what a line fill costs on average in a stream of accesses, beyond
            a hit one level up. Estimates; they weigh loop orders against each other.
    """

    line_bytes: int
    l1d_kib: int
    l1d_ways: int
    l2_kib: int
    l2_ways: int
    l1_miss_cycles: float = 0.0
    l2_miss_cycles: float = 0.0


@dataclass(frozen=True)
class Units:
    """Some pipes of a core, any one of which takes certain instructions.

    Attributes:
        pipes: names; sets of pipes may overlap.
        cycles: that an instruction keeps its pipe busy.
        kinds: classes of ``mnv3c.bench.isa``.
    """

    pipes: tuple[str, ...]
    cycles: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Core:
    """What scheduling wants to know about one core.

    Attributes:
        pipeline: ``in-order`` or ``out-of-order``.
        issue_width: instructions decoded a cycle.
        vector_bits: width of the vector arithmetic that can start in a cycle, all pipes together.
        units: for estimates without LLVM's tools.
        stalls: average cycles of a compiled kernel over what its pipes and the issue width allow, likewise.
    """

    pipeline: str
    issue_width: int
    vector_bits: int
    cache: Cache
    units: tuple[Units, ...] = ()
    stalls: float = 1.0


@dataclass(frozen=True)
class Target:
    """A core or a platform.

    Attributes:
        name: what ``--target`` takes.
        kind: ``core`` or ``platform``.
        architecture: ``armv7-a``, ``armv8-a``, ``armv8.2-a``, ``armv9-a``, or ``any``.
        features: instruction set extensions that are always there (``neon``, ``dotprod``, ``i8mm``, ...).
        paths: paths that it can run, best first.
        run_time_choice: whether a library carries all of ``paths`` and picks when it runs.
        flags: compiler kind (``gcc``, ``clang``, ``zig``) to the flags that choose the CPU.
        qemu_cpu: for ``qemu-aarch64 -cpu`` (``qemu-arm`` for ``armv7-a``).
        unicorn_cpu: ``a53``, ``a72`` or ``max``; ``none`` where Unicorn is not used.
        mca_cpu: for ``llvm-mca -mcpu``; the nearest model that LLVM has.
        core: ``None`` for a platform.
        detection: operating system to how a library asks for the CPU's features.
    """

    name: str
    kind: str
    description: str
    architecture: str
    features: tuple[str, ...]
    paths: tuple[str, ...]
    run_time_choice: bool
    flags: Mapping[str, tuple[str, ...]]
    qemu_cpu: str
    unicorn_cpu: str
    mca_cpu: str
    core: Core | None = None
    notes: str = ""
    detection: Mapping[str, str] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """Platforms first, then cores, each in alphabetical order."""
    return tuple(_all())


def every() -> tuple[Target, ...]:
    return tuple(_all().values())


def get(name: str, option: str = "--target") -> Target:
    """The target of that name; ``a76`` and ``Cortex_A76`` are taken for ``cortex-a76``.

    Args:
        option: that the name was given with, for the message.

    Raises:
        Mnv3cError: there is none; the message lists all and the ones of similar spelling.
    """
    targets = _all()
    plain = name.strip().lower().replace("_", "-")
    for candidate in (plain, f"cortex-{plain}"):
        if candidate in targets:
            return targets[candidate]
    close = difflib.get_close_matches(plain, targets, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise Mnv3cError(f"unknown target {name!r}{hint} (known: {', '.join(targets)})", option)


@functools.cache
def _all() -> Mapping[str, Target]:
    root = resources.directory("targets")
    found = [read(p) for kind in ("platforms", "cores") for p in sorted((root / kind).glob("*.toml"))]
    if not found:
        raise Mnv3cError("no target description found; the installation is incomplete", str(root))
    return MappingProxyType({t.name: t for t in found})


def read(path: Path) -> Target:
    """Read one description.

    Raises:
        Mnv3cError: the file is not valid TOML, or lacks a field.
    """
    try:
        return _target(tomllib.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise Mnv3cError(f"field {error} is missing", str(path)) from None
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise Mnv3cError(f"not a target description: {error}", str(path)) from None


def _target(table: dict[str, Any]) -> Target:
    is_core = "pipeline" in table
    core = None
    if is_core:
        core = Core(
            pipeline=table["pipeline"],
            issue_width=table["issue_width"],
            vector_bits=table["vector_bits"],
            cache=Cache(**table["cache"]),
            units=tuple(
                Units(tuple(u["pipes"]), u["cycles"], tuple(u["kinds"])) for u in table.get("units", ())
            ),
            stalls=table["model"].get("stalls", 1.0),
        )
    return Target(
        name=table["name"],
        kind="core" if is_core else "platform",
        description=table["description"],
        architecture=table["architecture"],
        features=tuple(table["features"]),
        paths=tuple(table["paths"]),
        run_time_choice=table.get("choice") == "run-time",
        flags=MappingProxyType({kind: tuple(flags) for kind, flags in table["flags"].items()}),
        qemu_cpu=table["emulator"]["qemu"],
        unicorn_cpu=table["emulator"]["unicorn"],
        mca_cpu=table["model"]["mca"],
        core=core,
        notes=table.get("notes", ""),
        detection=MappingProxyType(dict(table.get("detection", {}))),
    )
