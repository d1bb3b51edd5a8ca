"""Compiles and verifies every zoo network at every width and resolution, and prints a table.

    python benchmarks/zoo.py [--widths 0.35 0.75 1.0] [--resolutions 128 224] [NAME...]
    python benchmarks/zoo.py --own-size [NAME...]    # width 1, every network at the size it is made for

Each is compiled for ``arm64`` (all 64-bit paths) with random weights and verified on emulated Arm.
Exit code 1 if any path of any network differs from the reference in any bit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import mnv3c
from mnv3c.frontend.zoo.table import ARCHITECTURES
from mnv3c.ir import serialize
from mnv3c.ir.count import total_macs, total_parameters

NETWORKS = list(ARCHITECTURES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.35, 0.75, 1.0])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--own-size", action="store_true")
    options = parser.parse_args()
    widths = [1.0] if options.own_size else options.widths
    resolutions = [None] if options.own_size else options.resolutions
    print("| network | width | input | MACs | parameters | arena | constants | seconds | paths |")
    print("|---|---|---|---|---|---|---|---|---|")
    good = True
    for name in options.names:
        for width in widths:
            for resolution in resolutions:
                line, equal = one(name, width, resolution)
                print(line, flush=True)
                good = good and equal
    return 0 if good else 1


def one(name: str, width: float, resolution: int | None) -> tuple[str, bool]:
    """A line of the table, and whether every path is bit-equal."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "library"
        start = time.monotonic()
        library = mnv3c.compile(name, "arm64", target, width=width, resolution=resolution)
        seconds = time.monotonic() - start
        network = serialize.load(target / "reference" / "float.npz")
        result = mnv3c.verify(target, count=1)
        m = library.manifest
        size = network.tensor(network.inputs[0]).shape[:2]
        paths = ", ".join(f"{p.path} {'bit-equal' if p.equal else 'DIFFERS'}" for p in result.paths)
        return (
            f"| {name} | {width} | {'x'.join(map(str, size))} | {total_macs(network) / 1e6:.1f} M "
            f"| {total_parameters(network) / 1e6:.2f} M | {m['arena_bytes']} | {m['constant_bytes']} "
            f"| {seconds:.1f} | {paths} |"
        ), result.ok


if __name__ == "__main__":
    sys.exit(main())
