"""Which registers an instruction reads and writes, from its assembly text as LLVM prints it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

FLAGS = "nzcv"
_REGISTER = re.compile(r"\b(?:([xw])(\d+)|([vqdshb])(\d+))\b|\b(w?sp)\b")
_RANGE = re.compile(r"v(\d+)\.\w+ - v(\d+)\.\w+")
_POST_INDEX = re.compile(r"\]\s*,")
_TOP_LEVEL_COMMA = re.compile(r",\s*(?![^{\[]*[}\]])")

# The destination is read too: accumulators, and writes to a part of a register.
_READS_DESTINATION = re.compile(
    r"^(?:f?ml[as]l?2?|[su]ml[as]l2?|sqdml[as]l2?|sqrdml[as]h|[su]dot|usdot|sudot|usmmla|[su]mmla|fmla[lb]\w*|bf\w+"
    r"|[su]adalp|[su]abal?2?|[su]r?sra|sri|sli|bsl|bi[tf]|tbx|ins|movk|bfi|bfxil|bfm|\w+n2)$"
)
_MULTIPLY_ACCUMULATE = re.compile(
    r"^(?:f?ml[as]|[su]ml[as]l2?|sqdml[as]l2?|sqrdml[as]h|[su]dot|usdot|sudot|usmmla|[su]mmla|[su]adalp|[su]aba)$"
)
_WRITES_FLAGS_ONLY = re.compile(r"^(?:cmp|cmn|tst|ccmp|ccmn|fcmpe?|fccmpe?)$")
_WRITES_FLAGS_TOO = re.compile(r"^(?:adds|subs|ands|bics|adcs|sbcs|negs)$")
_READS_FLAGS = re.compile(r"^(?:b\.\w+|cs\w+|cinc|cinv|cneg|fcsel|ccm[pn]|fccmpe?|adcs?|sbcs?)$")
_BRANCH = re.compile(r"^(?:b|bl|br|blr|ret|cbn?z|tbn?z|b\.\w+|nop)$")
_PARTIAL_MOVE = re.compile(r"^mov v\d+\.[bhsd]\[")
_LANE_LOAD = re.compile(r"^ld[1-4] \{[^}]*\}\[")


@dataclass(frozen=True)
class Operands:
    """Registers by their full names: ``x0``, ``v3``, ``sp``, ``nzcv``.

    Attributes:
        accumulator: the register that a multiply-accumulate adds to, else ``None``.
        updated_base: the address register of a pre- or post-indexed access, else ``None``.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    accumulator: str | None = None
    updated_base: str | None = None


@functools.lru_cache(maxsize=1 << 14)
def parse(text: str) -> Operands:
    """Operands of one instruction."""
    name, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if name.startswith(("ld", "st")) and "[" in rest:
        return _access(name, text, rest)
    flags_read: tuple[str, ...] = (FLAGS,) if _READS_FLAGS.match(name) else ()
    if _BRANCH.match(name):
        link: tuple[str, ...] = ("x30",) if name in ("bl", "blr") else ()
        return Operands(name, _registers(rest) + flags_read, link)
    if _WRITES_FLAGS_ONLY.match(name):
        return Operands(name, _registers(rest) + flags_read, (FLAGS,))
    first, *others = _TOP_LEVEL_COMMA.split(rest)
    writes = _registers(first)
    reads = tuple(r for part in others for r in _registers(part)) + flags_read
    immediate_only = name in ("orr", "bic") and len(others) >= 1 and others[0].startswith("#")
    accumulator = writes[0] if _MULTIPLY_ACCUMULATE.match(name) and writes else None
    if _READS_DESTINATION.match(name) or _PARTIAL_MOVE.match(text) or immediate_only:
        reads += writes
    if _WRITES_FLAGS_TOO.match(name):
        writes += (FLAGS,)
    return Operands(name, reads, writes, accumulator)


def _access(name: str, text: str, rest: str) -> Operands:
    """A load or store. A list of registers is in braces; the address in the last brackets."""
    at = rest.rindex("[")
    data, address = _registers(rest[:at]), _registers(rest[at:])
    updates = rest.endswith("!") or _POST_INDEX.search(rest[at:]) is not None
    base = address[0] if updates and address else None
    if name.startswith("st"):
        return Operands(name, data + address, (), None, base)
    kept = data if _LANE_LOAD.match(text) else ()
    return Operands(name, address + kept, data, None, base)


def _registers(text: str) -> tuple[str, ...]:
    spread = _RANGE.search(text)
    if spread:
        first, last = int(spread[1]), int(spread[2])
        return tuple(f"v{i % 32}" for i in range(first, first + (last - first) % 32 + 1))
    found = []
    for general, number, vector, vector_number, stack in _REGISTER.findall(text):
        if general:
            found.append(f"x{number}")
        elif vector:
            found.append(f"v{vector_number}")
        elif stack:
            found.append("sp")
    return tuple(found)
