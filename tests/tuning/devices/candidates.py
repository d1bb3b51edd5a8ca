"""Small candidates for tests of devices, and what can be wrong with one."""

from __future__ import annotations

import dataclasses

from mnv3c.codegen.library import build_library
from mnv3c.codegen.program import Options
from mnv3c.reference import integer
from mnv3c.tuning.devices.base import Candidate, Timing
from tests.graphs import Builder, random_inputs

# Short: these tests are about statuses and bytes, not about exact times.
QUICK = Timing(
    repeats=3, sample_seconds=0.002, cool_down_seconds=0.0, timeout_seconds=2.0, noise=50.0, drift=50.0
)
_LAYER = "static void layer_%d(void *state_, int32_t part) {"


def convolution(path: str = "ref", key: str = "good", seed: int = 1, channels: int = 16) -> Candidate:
    """A 1x1 convolution of an 8x8 map, as a library of one path."""
    b = Builder(seed, "layer")
    graph = b.finish(b.hard_swish(b.conv(b.input(8, 8, 16), channels, dtype="int16")))
    inputs = random_inputs(graph, seed)
    expected = integer.run(graph, inputs)
    library = build_library(graph, [path], options=Options(tuning="cortex-a55"))
    return Candidate.of(key, library, [inputs[n] for n in graph.inputs], [expected[n] for n in graph.outputs])


def with_code(candidate: Candidate, key: str, statement: str, before: str = "") -> Candidate:
    """The candidate with ``statement`` at the begin of the first layer that counts."""
    layer = _LAYER % (candidate.layers[0] if candidate.layers else 0)
    name = f"{candidate.name}_{candidate.path}.c"
    source = candidate.sources[name]
    assert layer in source
    changed = source.replace(layer, f"{before}\n{layer}\n{statement}")
    return dataclasses.replace(candidate, key=key, sources={**candidate.sources, name: changed})


def crashing(candidate: Candidate) -> Candidate:
    return with_code(candidate, "crash", "*(volatile int *)0 = 1;")


def illegal(candidate: Candidate) -> Candidate:
    return with_code(candidate, "illegal", "__builtin_trap();")


def endless(candidate: Candidate) -> Candidate:
    return with_code(candidate, "endless", "for (volatile int i = 0;;) {}")


def wrong(candidate: Candidate) -> Candidate:
    """Writes one byte that is wrong, after the right ones."""
    statement = (
        "static volatile int calls; if (part == 0 && calls++ % 2 == 0) { layer_0(state_, part);"
        " ((const layer_state *)state_)->output_0[5] ^= 1; return; }"
    )
    return with_code(candidate, "wrong", statement, "static void layer_0(void *state_, int32_t part);")


def overrunning(candidate: Candidate) -> Candidate:
    """Writes behind its output."""
    return with_code(candidate, "overrun", "((const layer_state *)state_)->output_0[(1 << 16) + 5] = 1;")


def not_compiling(candidate: Candidate) -> Candidate:
    return with_code(candidate, "no compile", "", "#error this does not compile")


def not_linking(candidate: Candidate) -> Candidate:
    return with_code(candidate, "no link", "is_nowhere();", "extern void is_nowhere(void);")


def slower(candidate: Candidate, key: str = "slow", turns: int = 200_000) -> Candidate:
    return with_code(candidate, key, f"for (volatile int i = 0; i < {turns}; ++i) {{}}")
