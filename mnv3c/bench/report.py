"""The report of ``mnv3c bench``: plain data, the same for the table, ``--json`` and ``--html``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnv3c import __version__
from mnv3c.bench import llvm
from mnv3c.bench.balance import WORKERS, balance
from mnv3c.bench.build import OPTIMIZATION, FrameShape
from mnv3c.bench.code import by_class, bytes_moved
from mnv3c.bench.measure import Measurement, Progress, Region, measure, silent
from mnv3c.bench.pricing import Pricing, price
from mnv3c.runners.library import Library

FORMAT = 1


@dataclass(frozen=True)
class Cost:
    """What a stretch of the run costs; ``None`` where it could not be measured.

    Attributes:
        classes: instructions by class (``isa.CLASSES``).
        macs: multiply-accumulates that the network asks for here.
        cycles: estimated; L1 hits, right predictions.
        multiply_share: of these cycles, what the multiply-accumulate units need at the least.
        bytes_loaded, bytes_stored: by the executed loads and stores.
        l1_fills, l2_fills: lines of 64 bytes brought into a cache of 32 KiB, 4 ways, and one of 256 KiB,
            8 ways, behind it.
    """

    instructions: int
    classes: Mapping[str, int]
    macs: int
    cycles: float | None
    macs_per_cycle: float | None
    multiply_share: float | None
    bytes_loaded: int
    bytes_stored: int
    l1_fills: int | None
    l2_fills: int | None


@dataclass(frozen=True)
class Layer:
    """One stage of the path's program.

    Attributes:
        parts: into how many shares it can be split.
        constant_bytes, scratch_bytes: what it reads of weights and tables, what it needs of the arena.
    """

    index: int
    name: str
    title: str
    cost: Cost
    parts: int
    constant_bytes: int
    scratch_bytes: int


@dataclass(frozen=True)
class Threads:
    """Balance of the split between workers, by instructions.

    Attributes:
        share: critical path over total.
        efficiency: speed-up over one worker that divides nothing, over the workers.
    """

    workers: int
    share: float
    efficiency: float


@dataclass(frozen=True)
class Placement:
    """A region of the arena and the layers (inclusive) for which it is alive."""

    region: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class CompilerUsed:
    """What built the counted program."""

    name: str
    version: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Sizes in bytes; the last six are of the whole library, so of all its paths.

    Attributes:
        stack: the most that a run touched.
        writable: ``.data`` and ``.bss``.
        unwind: tables for debuggers and exceptions, which a program may strip.
        int8_weights: of the network, a byte each.
        beyond_weights: ``.text`` and ``.rodata`` without the weights.
    """

    arena: int
    stack: int
    text: int
    rodata: int
    writable: int
    unwind: int
    int8_weights: int
    beyond_weights: int


@dataclass(frozen=True)
class Report:
    """What ``--json`` prints.

    Attributes:
        model: how cycles were estimated; ``None`` without LLVM's tools.
        missing: what is not shown, each with the reason.
    """

    format: int
    mnv3c: str
    library: str
    path: str
    core: str
    counter: str
    compiler: CompilerUsed
    model: str | None
    missing: tuple[str, ...]
    total: Cost
    sizes: Memory
    layers: tuple[Layer, ...]
    threads: tuple[Threads, ...]
    arena: tuple[Placement, ...]

    def as_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)


def bench(
    library: Library,
    *,
    path: str | None = None,
    cpu: str | None = None,
    cc: str | None = None,
    caches: bool = True,
    frame: FrameShape | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure one path of ``library`` and estimate its cycles; arguments and errors as ``measure``."""
    measurement = measure(library, path=path, cpu=cpu, cc=cc, caches=caches, frame=frame, progress=progress)
    progress("estimate cycles", 0, 1)
    result = report(measurement)
    progress("estimate cycles", 1, 1)
    return result


def report(m: Measurement) -> Report:
    """The report of a measurement."""
    program = m.library.manifest["programs"][m.path]
    missing = list(m.missing)
    tools = llvm.tools()
    pricing = None
    if tools is None:
        missing.append("estimated cycles: llvm-mc and llvm-mca are not installed")
    else:
        pricing = price(m.code, m.blocks, m.whole.counts, m.core)
    entries = program["layers"]
    layers = tuple(
        Layer(
            entry["index"],
            entry["name"],
            entry["title"],
            _cost(m, region, entry["macs"], pricing),
            entry["parts"],
            entry["constant_bytes"],
            entry["scratch_bytes"],
        )
        for entry, region in zip(entries, m.layers, strict=True)
    )
    shares = [[p.instructions for p in parts] for parts in m.parts]
    undivided = [layer.instructions for layer in m.layers]
    splits = [balance(shares, n, undivided) for n in WORKERS]
    s = m.sizes
    return Report(
        format=FORMAT,
        mnv3c=__version__,
        library=m.library.name,
        path=m.path,
        core=m.core.name,
        counter=m.counter,
        compiler=CompilerUsed(m.compiler.name, m.compiler.version, (*OPTIMIZATION, *m.flags)),
        model=f"{pricing.method}, LLVM {tools.version}" if pricing and tools else None,
        missing=tuple(missing),
        total=_cost(m, m.whole, m.library.manifest["macs"], pricing),
        sizes=Memory(
            program["arena_bytes"],
            m.stack_bytes,
            s.text,
            s.rodata,
            s.writable,
            s.unwind,
            s.int8_weights,
            s.beyond_weights,
        ),
        layers=layers,
        threads=tuple(Threads(b.workers, b.share, b.efficiency) for b in splits),
        arena=tuple(Placement(**placement) for placement in program["memory"]),
    )


def _cost(m: Measurement, region: Region, macs: int, pricing: Pricing | None) -> Cost:
    counts = region.counts
    cycles = pricing.of(counts) if pricing else None
    loads, stores = bytes_moved(m.code, counts)
    return Cost(
        instructions=region.instructions,
        classes=by_class(m.code, counts),
        macs=macs,
        cycles=cycles,
        macs_per_cycle=macs / cycles if cycles else None,
        multiply_share=pricing.bound_of(counts) / cycles if pricing and cycles else None,
        bytes_loaded=loads,
        bytes_stored=stores,
        l1_fills=region.memory.l1_fills if region.memory else None,
        l2_fills=region.memory.l2_fills if region.memory else None,
    )
