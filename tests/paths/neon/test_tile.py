"""The scheduled assembly of the inner product, executed here instruction by instruction."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mnv3c.paths.neon.pack import pack_blocks
from mnv3c.paths.neon.tile import CHANNELS, Depth, Stream, tile_values

_PADDING = 64  # bytes that a tile may read behind its operands


class Machine:
    """The few instructions that a tile is made of; 16-bit overflow is an error, as it would be a bug."""

    def __init__(self, memory: np.ndarray, pointers: dict[str, int]) -> None:
        self.memory, self.pointers = memory, pointers
        self.vectors: dict[str, np.ndarray] = {}
        self.zero = False

    def run(self, lines: list[str]) -> None:
        at = 0
        while at < len(lines):
            line = lines[at]
            at += 1
            if line == "b.ne 1b":
                at = at if self.zero else lines.index("1:")
            elif line != "1:":
                self._step(line)

    def _step(self, line: str) -> None:
        name, rest = line.split(" ", 1)
        if name in ("ldr", "ldp"):
            self._load(rest)
            return
        if name == "adds":
            self.pointers["k"] += int(rest.split("#")[1])
            self.zero = self.pointers["k"] == 0
            return
        to, a, *more = (t.split(".")[0] for t in rest.split(", "))
        x = self.vectors[a]
        if name in ("smull", "smlal2"):
            half = slice(0, 8) if name == "smull" else slice(8, 16)
            product = x[half].astype(np.int64) * self.vectors[more[0]][half]
            product += self.vectors[to] if name == "smlal2" else 0
            assert np.abs(product + 0.5).max() < 32768, f"16 bits overflow: {line}"
            self.vectors[to] = product
        elif name in ("saddlp", "sadalp"):
            pairs = x.reshape(4, 2).sum(axis=1)
            self.vectors[to] = pairs + (self.vectors[to] if name == "sadalp" else 0)
        elif name == "addp":
            self.vectors[to] = np.concatenate([x, self.vectors[more[0]]]).reshape(4, 2).sum(axis=1)
        else:
            raise AssertionError(f"unknown instruction {line}")

    def _load(self, rest: str) -> None:
        registers, address, post = re.fullmatch(r"(.*), \[(.*)\](?:, #(\d+))?", rest).groups()  # type: ignore[union-attr]
        base, *index = (t.strip() for t in address.split(","))
        start = self.pointers[base[2:-1]]
        for i in index:
            start += int(i[1:]) if i.startswith("#") else self.pointers[i[2:-1]]
        for register in registers.split(", "):
            size = 16 if register[0] == "q" else 8
            assert start >= 0 and start + size <= self.memory.size, "reads outside of its operands"
            value = np.zeros(16, np.int8)
            value[:size] = self.memory[start : start + size]
            self.vectors[f"v{register[1:]}"] = value
            start += size
        if post:
            self.pointers[base[2:-1]] += int(post)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "channels", [1, 8, 9, 16, 17, 24, 40, 48, 56, 64, 72, 80, 88, 96, 104, 120, 200, 240]
)
def test_tile_is_the_inner_product(pixels: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(-128, 128, (pixels, channels)).astype(np.int8)
    weight = rng.integers(-127, 128, (2 * CHANNELS, channels)).astype(np.int8)
    x[:, ::3] = -128
    weight[:, ::3] = -127
    depth = Depth.of(channels)
    stream = Stream(pixels, depth)
    values = tile_values(pixels, depth)
    # Whatever lies behind the pixels is multiplied by weights of zero.
    noise = rng.integers(-128, 128, _PADDING).astype(np.int8)
    packed = pack_blocks(weight, [])[0]
    memory = np.concatenate([x.reshape(-1), noise, packed, noise])
    w = x.size + _PADDING
    pointers = {"w": w}
    for p in range(pixels):
        pointers[f"x{p}"] = p * channels
        pointers[f"e{p}"] = p * channels + depth.bytes
        pointers[f"f{p}"] = pointers[f"e{p}"] + stream.second
    pointers["k"] = int(str(values["before_loop"])) - depth.bytes
    machine = Machine(memory, pointers)
    machine.run(stream.lines)
    expected = x.astype(np.int64) @ weight[:CHANNELS].astype(np.int64).T
    for p in range(pixels):
        np.testing.assert_array_equal(machine.vectors[f"%[r{p}]"], expected[p])
    assert machine.pointers["w"] - stream.overread == w + CHANNELS * depth.bytes


def test_no_register_is_forgotten() -> None:
    for pixels in (1, 2, 3, 4):
        stream = Stream(pixels, Depth.of(200))
        used = set(re.findall(r"\b[vqd](\d+)\b", " ".join(stream.lines)))
        assert used == {name[1:] for name in stream.clobbers}
