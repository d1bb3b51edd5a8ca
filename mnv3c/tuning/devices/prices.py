"""Estimated cycles of counted blocks, as ``mnv3c.bench.pricing`` has them, kept from batch to batch.

A search prices thousands of kernels that share most of their blocks; starting LLVM's tools for each would
take longer than everything else. Here they start a few times a batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mnv3c.bench import llvm, scoreboard
from mnv3c.bench.code import Block, Code, basic_blocks
from mnv3c.targets import Target

# The blocks that make up this share of a candidate's instructions are priced, the rest at their average.
_COVERAGE = 0.998

_Body = tuple[str, ...]


class PriceList:
    """Cycles of blocks on one core. Not for several threads at once.

    Raises:
        Mnv3cError: on use, where LLVM's tools are missing.
    """

    def __init__(self, core: Target) -> None:
        self._core = core
        self._texts: dict[int, str] = {}
        self._forms: dict[str, llvm.Timing] = {}
        self._timings: dict[str, llvm.Timing] = {}
        self._cycles: dict[_Body, float] = {}

    @property
    def method(self) -> str:
        """For people and records."""
        name = "scoreboard" if self._in_order else "pipeline simulation"
        found = llvm.tools()
        return f"{name}, LLVM {found.version if found else ''}, model {self._core.mca_cpu}"

    @property
    def _in_order(self) -> bool:
        return self._core.core is not None and self._core.core.pipeline == "in-order"

    def cycles(self, code: Code, counts: Sequence[np.ndarray]) -> list[float]:
        """Cycles of each candidate.

        Args:
            counts: of each candidate, the executions of each word of ``code``.
        """
        chosen = [_hot(code, c) for c in counts]
        every = [b for _, hot in chosen for b in hot]
        self._read(code, every)
        bodies = list(dict.fromkeys(self._body(code, b) for b in every))
        self._price([b for b in bodies if b not in self._cycles])
        return [self._sum(code, c, *picked) for c, picked in zip(counts, chosen, strict=True)]

    def _sum(self, code: Code, counts: np.ndarray, blocks: Sequence[Block], hot: Sequence[Block]) -> float:
        total = sum(self._cycles[self._body(code, b)] * int(counts[b.first]) for b in hot)
        work = sum((b.last - b.first + 1) * int(counts[b.first]) for b in hot)
        everything = sum((b.last - b.first + 1) * int(counts[b.first]) for b in blocks)
        return float(total * everything / work) if work else 0.0

    def _body(self, code: Code, block: Block) -> _Body:
        return tuple(self._texts[int(w)] for w in code.words[block.first : block.last + 1])

    def _read(self, code: Code, blocks: Sequence[Block]) -> None:
        words = {int(w) for b in blocks for w in code.words[b.first : b.last + 1]}
        new = sorted(words - self._texts.keys())
        if new:
            self._texts.update(zip(new, llvm.disassemble(new), strict=True))

    def _price(self, bodies: Sequence[_Body]) -> None:
        if not bodies:
            return
        if not self._in_order:
            self._cycles.update(zip(bodies, llvm.block_cycles(bodies, self._core.mca_cpu), strict=True))
            return
        texts = {t for b in bodies for t in b} - self._timings.keys()
        forms = {t: form(t) for t in texts}
        new = sorted(set(forms.values()) - self._forms.keys())
        if new:
            self._forms.update(llvm.timings(new, self._core.mca_cpu))
        self._timings.update({t: self._forms[f] for t, f in forms.items()})
        width = self._core.core.issue_width if self._core.core else 2
        for body in bodies:
            self._cycles[body] = scoreboard.block_cycles(body, self._timings, width)


_REGISTER = re.compile(r"\b([xw]|[vqdshb])(\d+)\b")
_OFFSET = re.compile(r"(\[[^],]+, )#-?\w+(\])")


def form(text: str) -> str:
    """An instruction with the same timing: registers by first use, another offset of its access."""
    if "{" in text:  # a list of registers has to stay one
        return text
    known: dict[tuple[bool, str], str] = {}

    def rename(match: re.Match[str]) -> str:
        bank = match[1] in "xw"
        return match[1] + known.setdefault((bank, match[2]), str(sum(k[0] == bank for k in known)))

    return _OFFSET.sub(r"\1#16\2", _REGISTER.sub(rename, text))


def _hot(code: Code, counts: np.ndarray) -> tuple[list[Block], list[Block]]:
    """All blocks, and those that make up ``_COVERAGE`` of the instructions."""
    blocks = basic_blocks(code, counts)
    if not blocks:
        return [], []
    work = np.array([int(counts[b.first]) * (b.last - b.first + 1) for b in blocks], np.int64)
    order = np.argsort(-work, kind="stable")
    covered = np.cumsum(work[order])
    number = int(np.searchsorted(covered, _COVERAGE * covered[-1])) + 1
    return blocks, [blocks[i] for i in order[:number]]
