"""The machine code that was run: its words, which of them are the harness's, and its basic blocks."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from mnv3c.bench import isa
from mnv3c.errors import Mnv3cError

HARNESS_PREFIX = "mnv3c_bench_"


@dataclass(frozen=True, eq=False)
class Code:
    """Executable memory.

    Attributes:
        base: address of the first word.
        words: uint32 array; the word at index i lies at ``base + 4 * i``.
        harness: bool array of the same length: not the library's.
    """

    base: int
    words: np.ndarray
    harness: np.ndarray


@dataclass(frozen=True)
class Block:
    """Instructions ``first`` to ``last`` (indices into ``Code.words``, inclusive), always run together."""

    first: int
    last: int


def read(elf_bytes: bytes, offset: int = 0) -> Code:
    """The code of an AArch64 ELF file, loaded ``offset`` bytes above the addresses it states.

    Raises:
        Mnv3cError: it is not one, or has no executable segment.
    """
    elf = ELFFile(io.BytesIO(elf_bytes))
    segments = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_flags"] & 1]
    if elf["e_machine"] != "EM_AARCH64" or not segments:
        raise Mnv3cError("not a program for 64-bit Arm", "counted program")
    base = min(s["p_vaddr"] for s in segments) & ~3
    end = max(s["p_vaddr"] + s["p_filesz"] for s in segments)
    memory = bytearray(-(-(end - base) // 4) * 4)
    for s in segments:
        memory[s["p_vaddr"] - base : s["p_vaddr"] - base + s["p_filesz"]] = s.data()
    words = np.frombuffer(bytes(memory), "<u4")
    harness = np.zeros(len(words), bool)
    for section in elf.iter_sections():
        if isinstance(section, SymbolTableSection):
            for name, value, size in _functions(section):
                if name.startswith(HARNESS_PREFIX):
                    first = (value - base) // 4
                    harness[first : first + -(-size // 4)] = True
    return Code(base + offset, words, harness)


# Elf64_Sym of the ELF-64 object file format.
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_FUNCTION = 2


def _functions(table: SymbolTableSection) -> Iterator[tuple[str, int, int]]:
    """Name, address and bytes of each function; a C library's thousands are read at once."""
    symbols = np.frombuffer(table.data(), _SYMBOL)
    names = table.stringtable.data()
    for symbol in symbols[symbols["info"] & 15 == _FUNCTION]:
        start = int(symbol["name"])
        name = names[start : names.index(b"\0", start)].decode()
        yield name, int(symbol["value"]), int(symbol["size"])


def instruction_counts(code: Code, translated: Mapping[tuple[int, int], int]) -> np.ndarray:
    """How often each word was executed, int64; the harness's count as never.

    Args:
        translated: (address, number of instructions) of the emulator's blocks to executions. They may
            overlap: an emulator ends a block at a page's end and starts one wherever a jump lands.
    """
    steps = np.zeros(len(code.words) + 1, np.int64)
    for (address, length), count in translated.items():
        first = (address - code.base) // 4
        if 0 <= first < len(code.words):
            steps[first] += count
            steps[min(first + length, len(code.words))] -= count
    counts = np.cumsum(steps[:-1])
    counts[code.harness] = 0
    return counts


def basic_blocks(code: Code, counts: np.ndarray) -> list[Block]:
    """The executed code cut into blocks, from ``instruction_counts`` of everything that was run.

    A block ends after a branch and where the count changes. Two neighbours without a branch between
    them and with one count belong together: whatever jumped in between would have raised the second's.
    """
    executed = np.flatnonzero(counts)
    if not len(executed):
        return []
    branches = np.array([isa.decode(int(w)).ends_block for w in code.words[executed]])
    following, previous = executed[1:], executed[:-1]
    cut = (following != previous + 1) | (counts[following] != counts[previous]) | branches[:-1]
    starts = np.concatenate(([0], np.flatnonzero(cut) + 1))
    ends = np.concatenate((np.flatnonzero(cut), [len(executed) - 1]))
    return [Block(int(executed[a]), int(executed[b])) for a, b in zip(starts, ends, strict=True)]


def by_class(code: Code, counts: np.ndarray) -> dict[str, int]:
    """Executed instructions of each of ``isa.CLASSES``, those that occur."""
    totals = dict.fromkeys(isa.CLASSES, 0)
    for i in np.flatnonzero(counts):
        totals[isa.decode(int(code.words[i])).kind] += int(counts[i])
    return {kind: n for kind, n in totals.items() if n}


def bytes_moved(code: Code, counts: np.ndarray) -> tuple[int, int]:
    """Bytes loaded and stored, as the instructions say."""
    loads = stores = 0
    for i in np.flatnonzero(counts):
        decoded = isa.decode(int(code.words[i]))
        loads += decoded.loads * int(counts[i])
        stores += decoded.stores * int(counts[i])
    return loads, stores
