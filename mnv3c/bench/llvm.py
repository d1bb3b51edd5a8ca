"""LLVM's view of instructions: disassembly, latencies, units, and its pipeline simulation of a block."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mnv3c.errors import Mnv3cError

_OLDEST = 15  # before, models of some of the cores are missing
_VERSIONS = range(_OLDEST, 40)
_ATTRIBUTES = "+v8.6a,+dotprod,+i8mm,+bf16,+fullfp16,+aes,+sha2"
# Not in a core's model, or of a cost that has nothing to do with the pipeline.
_UNPRICED = re.compile(r"^(mrs|msr|svc|brk|dc|ic|sys|at|tlbi|hint|isb|dmb|dsb|bti|pac|aut|prfm|udf)")
_ITERATIONS = 60
_CHUNK = 150
_COPIES = 12  # a multiple of all numbers of like units
_WHOLE = 0.04  # cycles; an average nearer than this to a whole number is one


@dataclass(frozen=True)
class Tools:
    """The two programs and their version."""

    mc: str
    mca: str
    version: str


@dataclass(frozen=True)
class Use:
    """Units that an instruction keeps busy: any one of ``units`` for ``cycles``, or all of them together
    where ``cycles`` is at least their number (128-bit work on two 64-bit pipes)."""

    units: tuple[str, ...]
    cycles: float


@dataclass(frozen=True)
class Timing:
    """One instruction on one core.

    Attributes:
        latency: cycles from issue to result.
        throughput: cycles an instruction when it alone is repeated.
    """

    latency: int
    uses: tuple[Use, ...]
    throughput: float


@functools.cache
def tools() -> Tools | None:
    """``llvm-mc`` and ``llvm-mca`` of the newest version installed; ``None`` if there is none from 15 on."""
    found: list[tuple[int, Tools]] = []
    for suffix in ("", *(f"-{v}" for v in _VERSIONS)):
        mc, mca = shutil.which(f"llvm-mc{suffix}"), shutil.which(f"llvm-mca{suffix}")
        if mc and mca:
            match = re.search(r"version ((\d+)\S*)", _run([mca, "--version"], ""))
            if match and int(match[2]) >= _OLDEST:
                found.append((int(match[2]), Tools(mc, mca, match[1])))
    return max(found, key=lambda f: f[0])[1] if found else None


def _run(argv: Sequence[str], text: str) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode and not done.stdout:
        reason = next((s for s in done.stderr.splitlines() if "error" in s), f"exit code {done.returncode}")
        raise Mnv3cError(reason, argv[0])
    return done.stdout


def disassemble(words: Sequence[int]) -> list[str]:
    """Assembly text of instruction words; ``nop`` for what cannot be priced.

    Raises:
        Mnv3cError: LLVM's tools are missing.
    """
    found = _need()
    lines = "\n".join(" ".join(f"0x{b:02x}" for b in int(w).to_bytes(4, "little")) for w in words)
    output = _run([found.mc, "--disassemble", "-triple=aarch64", "-mattr=+all"], lines + "\n")
    texts = [re.sub(r"\s*//.*", "", line.strip()) for line in output.splitlines()]
    texts = [t.replace("\t", " ") for t in texts if t and not t.startswith(".")]
    if len(texts) != len(words):
        raise Mnv3cError("a word in the executed code is not an instruction", found.mc)
    return ["nop" if _UNPRICED.match(t) else t for t in texts]


def _need() -> Tools:
    found = tools()
    if found is None:
        raise Mnv3cError("not installed (Debian, Ubuntu: apt install llvm)", "llvm-mc, llvm-mca")
    return found


def block_cycles(blocks: Sequence[tuple[str, ...]], core: str) -> list[float]:
    """Cycles an iteration when a block is repeated, by ``llvm-mca``'s simulation of the pipeline.

    Args:
        blocks: assembly texts of each block.
        core: for ``-mcpu``.
    """
    chunks = [list(range(i, min(i + _CHUNK, len(blocks)))) for i in range(0, len(blocks), _CHUNK)]
    cycles = [0.0] * len(blocks)

    def price(chunk: list[int]) -> None:
        try:
            found = _simulate([blocks[i] for i in chunk], core)
        except (Mnv3cError, ValueError, KeyError):
            if len(chunk) == 1:  # no model for one of its instructions: one a cycle
                cycles[chunk[0]] = float(len(blocks[chunk[0]]))
                return
            half = len(chunk) // 2
            price(chunk[:half])
            price(chunk[half:])
            return
        for i, value in zip(chunk, found, strict=True):
            cycles[i] = value

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(price, chunks))
    return cycles


def _simulate(blocks: Sequence[tuple[str, ...]], core: str) -> list[float]:
    source = "".join(
        f"# LLVM-MCA-BEGIN {i}\n"
        + "\n".join(t for t in texts if t != "nop")
        + "\nnop\n" * (set(texts) == {"nop"})
        + f"\n# LLVM-MCA-END {i}\n"
        for i, texts in enumerate(blocks)
    )
    options = [f"-iterations={_ITERATIONS}", "-instruction-info=0", "-resource-pressure=0"]
    regions = {int(r["Name"]): r for r in _mca(source, core, options)["CodeRegions"]}
    return [regions[i]["SummaryView"]["TotalCycles"] / _ITERATIONS for i in range(len(blocks))]


def _mca(source: str, core: str, options: Sequence[str]) -> dict[str, Any]:
    argv = [_need().mca, "-mtriple=aarch64", f"-mcpu={core}", f"-mattr={_ATTRIBUTES}", "--json", *options]
    return dict(json.loads(_run(argv, source)))


def timings(texts: Iterable[str], core: str) -> dict[str, Timing]:
    """Latencies and units of instructions on a core.

    An instruction without a model gets a latency of 4 and no unit.
    """
    unique = list(dict.fromkeys(texts))
    found: dict[str, Timing] = {}

    def load(part: list[str]) -> None:
        try:
            found.update(_load_timings(part, core))
        except (Mnv3cError, ValueError, KeyError):
            if len(part) == 1:
                found[part[0]] = Timing(4, (), 1.0)
                return
            load(part[: len(part) // 2])
            load(part[len(part) // 2 :])

    for i in range(0, len(unique), _CHUNK):
        load(unique[i : i + _CHUNK])
    return found


def _load_timings(part: list[str], core: str) -> dict[str, Timing]:
    # In several copies, so that units of which any will do are seen to take turns.
    lines = [text for text in part for _ in range(_COPIES)]
    output = _mca("\n".join(lines) + "\n", core, ["-iterations=1"])
    region = output["CodeRegions"][0]
    listed = region["InstructionInfoView"]["InstructionList"]
    if len(listed) != len(lines):
        raise ValueError("an instruction was not understood")
    names = output["TargetInfo"]["Resources"]
    busy: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for entry in region["ResourcePressureView"]["ResourcePressureInfo"]:
        if entry["InstructionIndex"] < len(lines):  # behind them: the total
            share = entry["ResourceUsage"] / _COPIES
            busy[entry["InstructionIndex"] // _COPIES][names[entry["ResourceIndex"]]] += share
    result = {}
    for i, text in enumerate(part):
        info = listed[i * _COPIES]
        result[text] = Timing(info["Latency"], _uses(busy[i], names), info["RThroughput"])
    return result


def _uses(busy: Mapping[str, float], names: Sequence[str]) -> tuple[Use, ...]:
    """Units from their average use by one instruction.

    Units of one kind are called ``Kind.0`` and ``Kind.1`` (LLVM 19 writes the number as a character of
    that code). Kinds in broken numbers of cycles took turns: any of them will do.
    """
    kinds: dict[str, float] = defaultdict(float)
    for name, cycles in busy.items():
        kinds[_kind(name)] += cycles
    members = {kind: tuple(n for n in names if _kind(n) == kind) for kind in kinds}
    turns = [kind for kind, cycles in kinds.items() if abs(cycles - round(cycles)) > _WHOLE]
    uses = [Use(members[kind], float(round(c))) for kind, c in kinds.items() if kind not in turns]
    if turns:
        units = tuple(unit for kind in turns for unit in members[kind])
        uses.append(Use(units, max(1.0, float(round(sum(kinds[kind] for kind in turns))))))
    return tuple(use for use in uses if use.cycles)


def _kind(unit: str) -> str:
    return re.sub(r"\.(\d+|[\x00-\x1f])$", "", unit)
