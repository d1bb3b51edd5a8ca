"""What the shipped schedules gain on their own core, and what they are worth on another one.

    python benchmarks/tuning.py [--network mobilenet_v3_large] [--cores cortex-a55,cortex-a76] [--cc clang-19]

Rows: the core whose default or tuned code runs; columns: the core that runs it. Costs are those of the
simulated core, the sum over the layers. Exits with 1 if a layer is slower with the records of its own core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mnv3c import targets
from mnv3c.targets import Target
from mnv3c.tuning import front, records, tasks
from mnv3c.tuning.apply import Applied, apply
from mnv3c.tuning.devices.simulated import SimulatedDevice
from mnv3c.tuning.journal import Journal

BATCH = 16


def measure(
    graph, applied: Applied, known, family: str, maker: Target, device, journal
) -> dict[tuple[str, ...], float]:
    """Cost of each layer on ``device``, of the code made for ``maker`` by compilers of ``family``."""
    made = {}
    for layer in applied.layers:
        found = next((r for k in known if (r := k.get(layer.op, family))), None)
        schedule = found.schedule if found else {}
        made[layer.nodes] = tasks.task(graph, layer, maker.name).candidate(schedule)[0]
    new = list({c.key: c for c in made.values() if journal.get(c.key) is None}.values())
    for i in range(0, len(new), BATCH):
        for m in device.measure(new[i : i + BATCH]):
            journal.add(m.key, m.cost)
    return {nodes: journal.get(c.key) or 0.0 for nodes, c in made.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="mobilenet_v3_large")
    parser.add_argument("--cores", default="cortex-a55,cortex-a76")
    parser.add_argument("--cc", default="clang-19")
    parser.add_argument("--records", help="folder of CORE.json; default: those of schedules/records")
    parser.add_argument("--journal", help="folder to keep what was measured in")
    options = parser.parse_args()
    cores = [targets.get(name) for name in options.cores.split(",")]
    files = {
        c.name: Path(options.records, f"{c.name}.json") if options.records else records.shipped(c)
        for c in cores
    }
    graph = front.integer_graph(options.network)
    compiler = front.compiler_name(options.cc)
    family = compiler.split()[0]
    costs: dict[tuple[str, str, str], dict[tuple[str, ...], float]] = {}
    for core in cores:
        device = SimulatedDevice(core, cc=options.cc)
        file = Path(options.journal, f"{core.name}.journal") if options.journal else None
        journal = Journal(file, device.name, compiler)
        for maker in cores:
            path = front.tuned_path(maker, None)
            for kind in ("default", "tuned"):
                known = [records.load(files[maker.name], maker)] if kind == "tuned" else []
                applied = apply(graph, path, maker, known, family)
                costs[maker.name, kind, core.name] = measure(
                    graph, applied, known, family, maker, device, journal
                )
        device.close()
    print(f"{options.network}, {compiler}, million cycles on:")
    print(f"{'code of':<24}" + "".join(f"{c.name:>14}" for c in cores))
    for maker in cores:
        for kind in ("default", "tuned"):
            totals = [sum(costs[maker.name, kind, c.name].values()) / 1e6 for c in cores]
            print(f"{maker.name + ', ' + kind:<24}" + "".join(f"{t:>14.2f}" for t in totals))
    slower = 0
    for core in cores:
        default, tuned = (costs[core.name, kind, core.name] for kind in ("default", "tuned"))
        for nodes in sorted(set(default) & set(tuned)):
            if tuned[nodes] > default[nodes] * 1.001:
                print(f"slower on {core.name}: {nodes[-1]}: {default[nodes]:.0f}, tuned {tuned[nodes]:.0f}")
                slower = 1
    return slower


if __name__ == "__main__":
    sys.exit(main())
