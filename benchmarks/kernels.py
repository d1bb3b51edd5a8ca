"""The table of issue 3: what the generated code costs on each core, beside its peers.

    python benchmarks/kernels.py [--network NAME] [--core CORE] [--tuned] [--work DIR [--show]] [--json FILE]

Compiles MobileNetV3 Large and Small of the zoo (random weights and calibration: neither changes a count
by more than a branch) for each core and counts one run as ``mnv3c bench`` does. ``--work`` keeps the
quantised networks and the reports: run again, only the code is generated and counted anew; with
``--show``, nothing is, and the reports that are there make the table. Schedules are the defaults of each
core, with ``--tuned`` those of ``schedules/records``, which ``mnv3c compile`` takes.
Exit code 1 if a measured row misses what it must reach.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mnv3c import api, targets, toolchain
from mnv3c.bench.report import bench
from mnv3c.bench.table import count
from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import write_folder
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph
from mnv3c.paths import registry
from mnv3c.runners.library import open_library
from mnv3c.tuning import records
from mnv3c.tuning.apply import apply, sources

PEERS = Path(__file__).with_name("peers.toml")
_IN_MEMORY = ("arena", "writable", "stack", "beyond_weights")


def quantized(network: str, work: Path) -> Graph:
    """The zoo's network in integers, from ``work`` if it is there."""
    file = work / f"{network}.npz"
    if not file.is_file():
        graph = api.quantize(api.load(f"mobilenet_v3_{network}", name=f"{network}_bench"))
        file.write_bytes(serialize.dumps(graph))
    return serialize.loads(file.read_bytes())


Report = Mapping[str, Any]  # what `mnv3c bench --json` prints


def measure(network: str, core: str, work: Path, cc: str | None, tuned: bool = False) -> Report:
    """Compile for one core and count.

    Raises:
        Mnv3cError: the core's path cannot compute the network, or a tool is missing.
        CheckFailed: the library failed when it ran.
    """
    target = targets.get(core)
    best = target.paths[0]
    path = best if best in registry.available() else None
    if path is None:
        raise Mnv3cError(f"the path {best} is not there yet", core)
    graph, options = quantized(network, work), Options(tuning=core)
    if tuned:
        family = records.family_of(toolchain.find("aarch64", cc).kind)
        known, _ = sources(target, family, ())
        applied = apply(graph, path, target, known, family)
        options = Options(tuning=core, schedules=applied.schedules, tuned=applied.tuned)
    library = build_library(graph, (path,), options=options, settings={"target": core})
    folder = work / f"{network}_{core}"
    write_folder(folder, library.files)
    report = bench(open_library(folder), path=path, cpu=core, cc=cc).as_json()
    (work / f"{network}_{core}.json").write_text(json.dumps(report, indent=1))
    return report


def value(report: Report, what: str) -> float | None:
    """One figure of a report, by its name in ``peers.toml``; ``threads_4``: used time of 4, percent."""
    if what.startswith("threads_"):
        workers = int(what.removeprefix("threads_"))
        return next(100 * t["efficiency"] for t in report["threads"] if t["workers"] == workers)
    found = report["sizes" if what in _IN_MEMORY else "total"][what]
    return None if found is None else float(found)


def verdict(row: Mapping[str, Any], measured: float | None) -> str:
    """``aim``, ``must`` or ``missed``; empty if it was not measured or nothing is asked of the row."""
    if measured is None or "must" not in row:
        return ""
    if row.get("more_is_better"):
        return "aim" if measured >= row["aim"] else "must" if measured >= row["must"] else "missed"
    if measured <= row["aim"]:
        return "aim"
    return "must" if measured <= row["must"] else "missed"


def rows(table: Mapping[str, Any], reports: Mapping[tuple[str, str], Report]) -> list[dict[str, Any]]:
    """Each row with the worst of its runs that were made (``ours``) and the verdict on it."""
    result = []
    for row in table["row"]:
        values = [value(reports[run], row["measure"]) for run in map(tuple, row["runs"]) if run in reports]
        known = [v for v in values if v is not None]
        worst = min if row.get("more_is_better") else max
        ours = worst(known) if known else None
        result.append({**row, "ours": ours, "verdict": verdict(row, ours)})
    return result


def show(table: Mapping[str, Any], results: list[dict[str, Any]]) -> Table:
    """The table for a terminal."""
    colours = {"aim": "bold green", "must": "green", "missed": "bold red", "": ""}
    drawn = Table(box=box.SIMPLE_HEAD)
    drawn.add_column("224x224, 1.0, one thread, int8")
    for heading in ("mnv3c", "", "must", "aim", *table["peers"].values()):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in results:
        style = colours[row["verdict"]]
        ours = f"[{style}]{count(row['ours'])}[/]" if style else count(row["ours"])
        peers = [count(row.get(peer)) for peer in table["peers"]]
        asked = [count(row.get(what)) for what in ("must", "aim")]
        drawn.add_row(row["what"], ours, row["verdict"], *asked, *peers)
    return drawn


def main() -> int:
    """Measure what was asked for and print the table."""
    table = tomllib.loads(PEERS.read_text(encoding="utf-8"))
    wanted = sorted({tuple(run) for row in table["row"] for run in row["runs"]})
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", action="append", choices=sorted({n for n, _ in wanted}))
    parser.add_argument("--core", action="append", choices=sorted({c for _, c in wanted}))
    parser.add_argument("--cc", help="C compiler command")
    parser.add_argument("--tuned", action="store_true", help="with the records that the repository ships")
    parser.add_argument("--work", type=Path, help="folder to keep networks and reports in")
    parser.add_argument("--show", action="store_true", help="measure nothing, show what --work holds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    reports: dict[tuple[str, str], Report] = {}
    with tempfile.TemporaryDirectory(prefix="mnv3c-kernels-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for network, core in wanted:
            if network not in (arguments.network or [network]) or core not in (arguments.core or [core]):
                continue
            kept = work / f"{network}_{core}.json"
            if arguments.show:
                if kept.is_file():
                    reports[network, core] = json.loads(kept.read_text())
                continue
            try:
                reports[network, core] = measure(network, core, work, arguments.cc, arguments.tuned)
            except (Mnv3cError, CheckFailed) as error:
                console.print(f"{network} on {core}: {error}", style="yellow", highlight=False)
    results = rows(table, reports)
    compilers = {f"{r['compiler']['version']} {r['compiler']['flags'][1]}" for r in reports.values()}
    console.print(*sorted(compilers), sep="\n", style="dim", highlight=False)
    console.print(show(table, results))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(row["verdict"] == "missed" for row in results))


if __name__ == "__main__":
    sys.exit(main())
