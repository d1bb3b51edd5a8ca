"""Loading an AArch64 ELF shared object into a flat image: segments placed, relocations applied."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from mnv3c.errors import Mnv3cError

PAGE = 0x1000
# Relocation types, "ELF for the Arm 64-bit Architecture", section 5.7.
_ABS64, _GLOB_DAT, _JUMP_SLOT, _RELATIVE = 257, 1025, 1026, 1027


@dataclass(frozen=True)
class Segment:
    """Pages of one protection: ``address`` and ``len(data)`` are multiples of the page size."""

    address: int
    data: bytes
    writable: bool
    executable: bool


@dataclass(frozen=True)
class Image:
    """A loaded object.

    Attributes:
        segments: in order of address, not overlapping.
        symbols: name to address, of what it exports.
        functions: ``(address, size, name)`` of every function known, local ones too if not stripped.
    """

    segments: tuple[Segment, ...]
    symbols: dict[str, int]
    functions: tuple[tuple[int, int, str], ...]

    def where(self, address: int) -> str:
        """The function that holds ``address``, for people."""
        for start, size, name in self.functions:
            if start <= address < start + size:
                return f"{name}+{address - start:#x}"
        return f"{address:#x}"


def load(data: bytes, base: int) -> Image:
    """Place a shared object at ``base`` (a multiple of the page size) and relocate it.

    Raises:
        Mnv3cError: not an AArch64 shared object, or it needs a symbol that is not in it.
    """
    elf = ELFFile(io.BytesIO(data))
    if elf["e_machine"] != "EM_AARCH64" or elf["e_type"] != "ET_DYN":
        raise Mnv3cError(f"not an AArch64 shared object ({elf['e_machine']}, {elf['e_type']})", "loader")
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    size = _round_up(max(s["p_vaddr"] + s["p_memsz"] for s in loads))
    memory = bytearray(size)
    protection: list[tuple[bool, bool] | None] = [None] * (size // PAGE)
    for s in loads:
        start = s["p_vaddr"]
        memory[start : start + s["p_filesz"]] = s.data()
        for page in range(start // PAGE, _round_up(start + s["p_memsz"]) // PAGE):
            writable, executable = protection[page] or (False, False)
            protection[page] = (writable or bool(s["p_flags"] & 2), executable or bool(s["p_flags"] & 1))
    # Constant pointers (".data.rel.ro") are written by the loader alone.
    for s in elf.iter_segments():
        if s["p_type"] == "PT_GNU_RELRO":
            for page in range(-(-s["p_vaddr"] // PAGE), (s["p_vaddr"] + s["p_memsz"]) // PAGE):
                protection[page] = (False, (protection[page] or (False, False))[1])
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection):
            _relocate(elf, section, memory, base)
    symbols, functions = _symbols(elf, base)
    return Image(tuple(_segments(memory, protection, base)), symbols, functions)


def _round_up(n: int) -> int:
    return -(-n // PAGE) * PAGE


def _relocate(elf: ELFFile, section: RelocationSection, memory: bytearray, base: int) -> None:
    table: Any = elf.get_section(section["sh_link"])
    for entry in section.iter_relocations():
        kind, where, addend = entry["r_info_type"], entry["r_offset"], entry["r_addend"]
        if kind == _RELATIVE:
            value = base + addend
        elif kind in (_ABS64, _GLOB_DAT, _JUMP_SLOT):
            symbol = table.get_symbol(entry["r_info_sym"])
            if symbol["st_shndx"] == "SHN_UNDEF":
                raise Mnv3cError(f"needs the symbol {symbol.name}, which nothing supplies", "loader")
            value = base + symbol["st_value"] + addend
        else:
            raise Mnv3cError(f"relocation of type {kind} is not supported", "loader")
        memory[where : where + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")


def _symbols(elf: ELFFile, base: int) -> tuple[dict[str, int], tuple[tuple[int, int, str], ...]]:
    exported: dict[str, int] = {}
    functions: set[tuple[int, int, str]] = set()
    for section in elf.iter_sections():
        if not isinstance(section, SymbolTableSection):
            continue
        for symbol in section.iter_symbols():
            if symbol["st_shndx"] == "SHN_UNDEF" or not symbol.name:
                continue
            if section.name == ".dynsym":
                exported[symbol.name] = base + symbol["st_value"]
            if symbol["st_info"]["type"] == "STT_FUNC":
                functions.add((base + symbol["st_value"], symbol["st_size"], symbol.name))
    return exported, tuple(sorted(functions))


def _segments(memory: bytearray, protection: list[tuple[bool, bool] | None], base: int) -> list[Segment]:
    """Runs of pages of equal protection."""
    found: list[Segment] = []
    first = 0
    for page in range(1, len(protection) + 1):
        if page < len(protection) and protection[page] == protection[first]:
            continue
        flags = protection[first]
        if flags is not None:
            data = bytes(memory[first * PAGE : page * PAGE])
            found.append(Segment(base + first * PAGE, data, *flags))
        first = page
    return found
