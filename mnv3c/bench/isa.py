"""AArch64 instruction words: what kind of work each does and how many bytes it moves.

Encodings: Arm Architecture Reference Manual (DDI 0487), chapter C4, "A64 instruction set encoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

# What instructions are counted as; the order is the one of tables.
CLASSES = {
    "dot": "SDOT, UDOT, USDOT: 16 multiply-accumulates",
    "matrix": "SMMLA, UMMLA, USMMLA: 32 multiply-accumulates",
    "widening multiply": "SMULL, SMLAL and their kin",
    "multiply": "MUL, MLA, MLS of vectors",
    "high multiply": "SQRDMULH, SQDMULH, SQRDMLAH: the requantisation's product",
    "pairwise": "SADALP, SADDLP, ADDP, ADDV",
    "narrow": "XTN, SQXTN, SQRSHRN: to half the width",
    "permute": "ZIP, UZP, TRN, EXT, TBL, REV",
    "vector move": "DUP, INS, UMOV, MOVI, MOV of vectors",
    "vector arithmetic": "every other vector instruction on integers",
    "floating point": "scalars and vectors",
    "vector load": "into vector registers",
    "vector store": "from vector registers",
    "integer load": "into general registers",
    "integer store": "from general registers",
    "prefetch": "PRFM",
    "atomic": "exclusive, ordered and atomic accesses",
    "integer": "arithmetic on general registers",
    "branch": "jumps, calls and returns, taken or not",
    "system": "system calls, barriers, system registers",
    "other": "SVE, cryptography, and what is not known here",
}
MULTIPLY_ACCUMULATE = ("dot", "matrix", "widening multiply", "multiply")


@dataclass(frozen=True)
class Decoded:
    """One instruction.

    Attributes:
        kind: a key of ``CLASSES``.
        loads, stores: bytes that it reads from and writes to memory.
        ends_block: control may go elsewhere after it.
    """

    kind: str
    loads: int = 0
    stores: int = 0
    ends_block: bool = False


def _bits(word: int, high: int, low: int) -> int:
    return word >> low & (1 << high - low + 1) - 1


@lru_cache(maxsize=1 << 16)
def decode(word: int) -> Decoded:
    """The 32-bit instruction ``word``."""
    group = _bits(word, 28, 25)
    if group in (0b1000, 0b1001, 0b0101, 0b1101):
        return Decoded("integer")
    if group in (0b1010, 0b1011):
        return _branch_or_system(word)
    if group & 0b0101 == 0b0100:
        return _load_or_store(word)
    if group & 0b0111 == 0b0111:
        return Decoded(_vector_kind(word))
    return Decoded("other")


def _branch_or_system(word: int) -> Decoded:
    if _bits(word, 31, 22) == 0b1101010100:
        return Decoded("system")  # hints, barriers, MSR, MRS
    if _bits(word, 31, 24) == 0b11010100:
        return Decoded("system", ends_block=True)  # SVC, BRK
    return Decoded("branch", ends_block=True)


# Registers of LD1 to LD4 (multiple structures), by opcode, bits 15 to 12.
_STRUCTURE_REGISTERS = {0b0000: 4, 0b0010: 4, 0b0100: 3, 0b0110: 3, 0b0111: 1, 0b1000: 2, 0b1010: 2}


def _load_or_store(word: int) -> Decoded:
    size, vector, load = _bits(word, 31, 30), bool(_bits(word, 26, 26)), bool(_bits(word, 22, 22))
    if word & 0xBF000000 == 0x0C000000:  # LD1 to LD4, multiple structures
        return _moved(True, load, _STRUCTURE_REGISTERS.get(_bits(word, 15, 12), 0) * (8 << (size & 1)))
    if word & 0xBF000000 == 0x0D000000:  # one structure, or one replicated
        opcode = _bits(word, 15, 13)
        elements = 1 + ((opcode & 1) << 1 | _bits(word, 21, 21))
        narrow = _bits(word, 11, 10)
        element = (1, 2, 8 if narrow & 1 else 4, 1 << narrow)[opcode >> 1]
        return _moved(True, load, elements * element)
    if word & 0x3F000000 == 0x08000000 or word & 0x3F200C00 == 0x19000000:  # exclusive, ordered; RCpc
        return Decoded("atomic", *((1 << size, 0) if load else (0, 1 << size)))
    if word & 0x3B000000 == 0x18000000:  # literal
        if not vector and size == 3:
            return Decoded("prefetch")
        return _moved(vector, True, 4 << size if vector else (4, 8, 4)[size])
    if word & 0x3A000000 == 0x28000000:  # pairs
        return _moved(vector, load, 2 * (4 << size if vector else (4, 4, 8, 8)[size]))
    opcode = _bits(word, 23, 22)
    if word & 0x3B200C00 == 0x38200000:
        return Decoded("atomic", 1 << size, 1 << size)
    if vector:
        return _moved(True, bool(opcode & 1), 16 if opcode & 2 else 1 << size)
    if size == 3 and opcode == 2:
        return Decoded("prefetch")
    return _moved(False, opcode != 0, 1 << size)


def _moved(vector: bool, load: bool, count: int) -> Decoded:
    kind = f"{'vector' if vector else 'integer'} {'load' if load else 'store'}"
    return Decoded(kind, *((count, 0) if load else (0, count)))


def _vector_kind(word: int) -> str:
    if word & 0x5E000000 == 0x1E000000:  # scalar floating point; FMOV to or from a general register moves
        is_move = word & 0x5F20FC00 == 0x1E200000 and _bits(word, 18, 17) == 0b11
        return "vector move" if is_move else "floating point"
    if (
        word & 0xDE000000 == 0x5E000000
    ):  # scalar forms of vector instructions: the same without the scalar bits
        if word & 0xFFE0FC00 == 0x5E000400:
            return "vector move"
        return _vector_kind(word & ~0x50000000 | 0x40000000)
    if word & 0x9E000000 != 0x0E000000:
        return "other"
    upper = bool(_bits(word, 29, 29))
    if _bits(word, 24, 24):
        return _by_element_or_immediate(word, upper)
    for mask, value, kind in _FIXED:
        if word & mask == value:
            return kind
    opcode5, opcode4 = _bits(word, 15, 11), _bits(word, 15, 12)
    if word & 0x9F208400 == 0x0E008400:
        return _three_same_extra(_bits(word, 14, 11))
    if word & 0x9F200400 == 0x0E200400:
        return _three_same(word, opcode5, upper)
    if word & 0x9F200C00 == 0x0E200000:  # three different
        if opcode4 in (0b0100, 0b0110):
            return "narrow"  # ADDHN, SUBHN
        return (
            "widening multiply"
            if opcode4 in (0b1000, 0b1001, 0b1010, 0b1011, 0b1100, 0b1101)
            else "vector arithmetic"
        )
    if word & 0x9F3E0C00 == 0x0E200800:
        return _two_registers(_bits(word, 16, 12), upper, _bits(word, 23, 22))
    return "floating point" if word & 0x9F60C400 == 0x0E400400 or word & 0x9F7E0C00 == 0x0E780800 else "other"


_FIXED = (
    (0x9FE08400, 0x0E000400, "vector move"),  # DUP, INS, UMOV, SMOV
    (0xBF208C00, 0x0E000800, "permute"),  # UZP, TRN, ZIP
    (0xBFE08400, 0x2E000000, "permute"),  # EXT
    (0xBFE08C00, 0x0E000000, "permute"),  # TBL, TBX
    (0x9F3E0C00, 0x0E300800, "pairwise"),  # across lanes: ADDV, SMAXV
)


def _three_same_extra(opcode: int) -> str:
    return {0: "high multiply", 1: "high multiply", 2: "dot", 3: "dot", 4: "matrix", 5: "matrix"}.get(
        opcode, "floating point"
    )


def _three_same(word: int, opcode: int, upper: bool) -> str:
    if opcode >= 0b11000:
        return "floating point"
    if opcode == 0b10110:
        return "high multiply"  # SQDMULH, SQRDMULH
    if opcode in (0b10010, 0b10011):
        return "multiply"  # MLA, MLS, MUL, PMUL
    if opcode in (0b10100, 0b10101) or (opcode == 0b10111 and not upper):
        return "pairwise"  # SMAXP, SMINP, ADDP
    is_copy = (
        opcode == 0b00011
        and not upper
        and _bits(word, 23, 22) == 2
        and _bits(word, 20, 16) == _bits(word, 9, 5)
    )
    return "vector move" if is_copy else "vector arithmetic"


def _two_registers(opcode: int, upper: bool, size: int) -> str:
    if opcode in (0b00000, 0b00001):
        return "permute"  # REV
    if opcode in (0b00010, 0b00110):
        return "pairwise"  # SADDLP, SADALP
    if opcode in (0b10010, 0b10100):
        return "narrow"  # XTN, SQXTUN, SQXTN, UQXTN
    if opcode == 0b11011 and not upper and size < 2:
        return "floating point"
    return (
        "floating point"
        if opcode in (0b01100, 0b01101, 0b01110, 0b01111) or opcode >= 0b10110
        else "vector arithmetic"
    )


def _by_element_or_immediate(word: int, upper: bool) -> str:
    opcode = _bits(word, 15, 12)
    if not _bits(word, 10, 10):  # by element
        if opcode == 0b1110 or (opcode == 0b1111 and not upper):
            return "dot"
        if opcode in (0b0010, 0b0011, 0b0110, 0b0111, 0b1010, 0b1011):
            return "widening multiply"
        if opcode == 0b1000 or (upper and opcode in (0b0000, 0b0100)):
            return "multiply"
        return (
            "high multiply"
            if opcode in (0b1100, 0b1101) or (upper and opcode == 0b1111)
            else "floating point"
        )
    if _bits(word, 22, 19) == 0:
        return "vector move"  # MOVI, MVNI, FMOV, ORR, BIC of an immediate
    opcode5 = _bits(word, 15, 11)
    if 0b10000 <= opcode5 <= 0b10011:
        return "narrow"  # SHRN, SQSHRN, SQRSHRUN
    return "floating point" if opcode5 in (0b11100, 0b11111) else "vector arithmetic"
