"""``mnv3c tune`` and ``mnv3c latency`` as functions: from a model's name to records and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3c import api, targets
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.paths import registry
from mnv3c.targets import Target
from mnv3c.toolchain import find
from mnv3c.tuning import records, report
from mnv3c.tuning.apply import sources
from mnv3c.tuning.devices import SIMULATED, open_device
from mnv3c.tuning.grid import Block
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.latency import Entry, Meter, Tell, silent
from mnv3c.tuning.records import Records
from mnv3c.tuning.session import Outcome, Progress, Session, Settings

TUNED_PATHS = ("i8mm", "dotprod", "neon")


@dataclass(frozen=True)
class Tuned:
    """A finished search.

    Attributes:
        name: of the network.
        compiler: family and major version that the records are for.
        file: the records.
        unit: of all costs.
    """

    name: str
    core: str
    path: str
    device: str
    compiler: str
    unit: str
    file: Path
    outcome: Outcome

    @property
    def hint(self) -> str:
        """What ``compile`` needs beside the file."""
        return "" if self.compiler.startswith("clang") else f" --compiler {self.compiler.split()[0]}"


def compiler_name(cc: str | None) -> str:
    """Family and major version of the compiler that candidates are built with.

    Raises:
        Mnv3cError: there is none.
    """
    found = find("aarch64", cc)
    version = re.search(r"(\d+)\.\d+", found.version)
    return f"{records.family_of(found.kind)} {version[1] if version else '?'}"


def tuned_path(core: Target, path: str | None) -> str:
    """The path to tune: the one asked for, else the core's best.

    Raises:
        Mnv3cError: a platform, a path that the core does not have, or one without schedules.
    """
    if core.core is None:
        raise Mnv3cError(f"{core.name} is a platform; schedules are searched for a core", "--target")
    wanted = path or registry.choose(core.paths, core.run_time_choice)[0]
    if wanted not in core.paths:
        raise Mnv3cError(f"{core.name} has no path {wanted}", "--path")
    if wanted not in TUNED_PATHS:
        raise Mnv3cError(f"the path {wanted} has no knobs (with knobs: {', '.join(TUNED_PATHS)})", "--path")
    return wanted


def integer_graph(model: str, **options: Any) -> Graph:
    """A model as the integer graph whose layers are measured; scales are of no matter for their speed."""
    if api.comes_quantized(model):
        return api.load_quantized(model)
    seed = int(options.get("seed", 0))
    return api.quantize(api.load(model, **options), seed=seed)


def knobs(model: str, target: str, *, path: str | None = None, **options: Any) -> list[report.KnobRow]:
    """The search space of a model's layers on a core, with the values used without a search.

    Raises:
        Mnv3cError: bad use; a model that cannot be read.
    """
    core = targets.get(target)
    chosen = tuned_path(core, path)
    return report.knob_rows(integer_graph(model, **options), chosen, core)


def tune(
    model: str,
    target: str,
    *,
    device: str = SIMULATED,
    file: Path | None = None,
    path: str | None = None,
    cc: str | None = None,
    settings: Settings,
    finalists: int = 4,
    fresh: bool = False,
    hints: Sequence[Path] = (),
    tell: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Tuned:
    """Search a network's schedules and merge them into a file of records.

    Args:
        finalists: schedules of an operator that a real device times.
        hints: records, of this core or another one, whose schedules are tried first.
        options: of the model, as ``api.load`` takes them.

    Raises:
        Mnv3cError: bad use; no compiler, emulator or device; a file that cannot be read or written.
        KeyboardInterrupt: while the simulated core prepared the search on a real device, which then measured
            nothing. What was measured is in the journal. Any other interrupt ends the search early.
    """
    core = targets.get(target)
    chosen = tuned_path(core, path)
    into = file or Path(f"{core.name}.json")
    known = records.load(into, core) if into.is_file() else Records(core.name)
    compiler = compiler_name(cc)
    if device != SIMULATED:  # a device that cannot be reached is told before the long search, not after it
        open_device(device, core, cc=cc).close()
    earlier = [r for f in hints for r in records.load(f, records.core_of(f)).found.values()]
    graph = integer_graph(model, **options)
    journal_file = into.with_name(f"{into.name}.journal")
    if fresh:
        journal_file.unlink(missing_ok=True)

    measured_by = device

    def search(where: str, settings: Settings, prior: Outcome | None) -> Outcome:
        nonlocal measured_by
        opened = open_device(where, core, cc=cc)
        journal = Journal(journal_file, opened.name, compiler)
        try:
            session = Session(graph, chosen, core, opened, compiler, settings, journal, tell, earlier)
            found = session.run() if prior is None else session.finals(prior, finalists)
            if session.interrupt is not None and where != device:
                raise session.interrupt
            measured_by = opened.name
            return found
        finally:
            journal.close()
            opened.close()

    outcome = search(SIMULATED, settings, None)
    if device != SIMULATED:
        outcome = search(device, settings, outcome)
    records.save(into, known.merged(outcome.records))
    unit = outcome.records[0].unit if outcome.records else "cycles"
    return Tuned(graph.name, core.name, chosen, measured_by, compiler, unit, into, outcome)


def facts(done: Tuned, seconds: float) -> Mapping[str, Any]:
    """For ``--json``."""
    o = done.outcome
    return {
        "ok": True,
        "network": done.name,
        "core": done.core,
        "path": done.path,
        "device": done.device,
        "compiler": done.compiler,
        "unit": done.unit,
        "records": str(done.file),
        "default_cost": o.default_cost,
        "tuned_cost": o.best_cost,
        "measured": o.measured,
        "known": o.known,
        "complete": o.complete,
        "notes": list(o.notes),
        "failed": [{"operator": op, "schedule": dict(s), "reason": r} for op, s, r in o.failed],
        "layers": [
            {
                "nodes": list(row.nodes),
                "operator": row.op.operator,
                "shape": dict(row.op.shape),
                "count": row.count,
                "default_cost": row.default,
                "cost": row.best,
                "schedule": dict(row.schedule),
                "same_layout": row.own,
            }
            for row in report.rows(o)
        ],
        "seconds": round(seconds, 1),
    }


@dataclass(frozen=True)
class Latencies:
    """A latency table: ``layers`` of the network, or ``blocks`` of a grid; the other one is empty."""

    name: str
    core: str
    device: str
    unit: str
    layers: tuple[Entry, ...]
    blocks: tuple[Block, ...]


def latency(
    model: str,
    target: str,
    *,
    device: str = SIMULATED,
    grid: bool = False,
    files: Sequence[Path] = (),
    untuned: bool = False,
    path: str | None = None,
    cc: str | None = None,
    tell: Tell = silent,
    **options: Any,
) -> Latencies:
    """Measure the layers of a network, or a grid of blocks in their places.

    Raises:
        Mnv3cError: as ``tune``; records that cannot be used.
    """
    core = targets.get(target)
    chosen = tuned_path(core, path)
    compiler = compiler_name(cc)
    family = compiler.split()[0]
    known: list[Records] = []
    if not untuned:
        known, _ = sources(core, family, files)
    graph = integer_graph(model, **options)
    opened = open_device(device, core, cc=cc)
    try:
        meter = Meter(chosen, core, opened, Journal(None, opened.name, compiler), known, family, tell)
        layers = () if grid else tuple(meter.network(graph))
        blocks = tuple(meter.grid(graph, int(options.get("seed", 0)))) if grid else ()
        return Latencies(graph.name, core.name, opened.name, opened.unit, layers, blocks)
    finally:
        opened.close()
