"""Classes and bytes of instructions, against words assembled by a C compiler's assembler."""

from __future__ import annotations

import pytest
from elftools.elf.elffile import ELFFile

from mnv3c.bench import isa
from mnv3c.errors import Mnv3cError
from mnv3c.toolchain import find
from mnv3c.toolchain.compiler import run

# Assembly, class, bytes loaded, bytes stored.
CASES = [
    ("sdot v0.4s, v1.16b, v2.16b", "dot", 0, 0),
    ("sdot v0.2s, v1.8b, v2.8b", "dot", 0, 0),
    ("sdot v0.4s, v1.16b, v2.4b[3]", "dot", 0, 0),
    ("udot v0.4s, v1.16b, v2.4b[1]", "dot", 0, 0),
    ("usdot v0.4s, v1.16b, v2.16b", "dot", 0, 0),
    ("sudot v0.4s, v1.16b, v2.4b[0]", "dot", 0, 0),
    ("smmla v0.4s, v1.16b, v2.16b", "matrix", 0, 0),
    ("usmmla v0.4s, v1.16b, v2.16b", "matrix", 0, 0),
    ("smull v0.8h, v1.8b, v2.8b", "widening multiply", 0, 0),
    ("smlal2 v0.8h, v1.16b, v2.16b", "widening multiply", 0, 0),
    ("smlal v0.4s, v1.4h, v2.h[3]", "widening multiply", 0, 0),
    ("umull v0.4s, v1.4h, v2.h[1]", "widening multiply", 0, 0),
    ("sqdmull v0.4s, v1.4h, v2.4h", "widening multiply", 0, 0),
    ("smlsl v0.4s, v1.4h, v2.4h", "widening multiply", 0, 0),
    ("mul v0.4s, v1.4s, v2.4s", "multiply", 0, 0),
    ("mla v0.8h, v1.8h, v2.h[2]", "multiply", 0, 0),
    ("mls v0.4s, v1.4s, v2.4s", "multiply", 0, 0),
    ("sqrdmulh v0.4s, v1.4s, v2.4s", "high multiply", 0, 0),
    ("sqrdmulh v0.8h, v1.8h, v2.h[5]", "high multiply", 0, 0),
    ("sqrdmulh s0, s1, s2", "high multiply", 0, 0),
    ("sqdmulh v0.4s, v1.4s, v2.s[1]", "high multiply", 0, 0),
    ("sqrdmlah v0.8h, v1.8h, v2.8h", "high multiply", 0, 0),
    ("sqrdmlah v0.8h, v1.8h, v2.h[1]", "high multiply", 0, 0),
    ("sadalp v0.4s, v1.8h", "pairwise", 0, 0),
    ("saddlp v0.4s, v1.8h", "pairwise", 0, 0),
    ("addp v0.4s, v1.4s, v2.4s", "pairwise", 0, 0),
    ("addv s0, v1.4s", "pairwise", 0, 0),
    ("sqxtn v0.4h, v1.4s", "narrow", 0, 0),
    ("sqxtn2 v0.16b, v1.8h", "narrow", 0, 0),
    ("xtn v0.8b, v1.8h", "narrow", 0, 0),
    ("sqxtun v0.8b, v1.8h", "narrow", 0, 0),
    ("sqrshrn v0.4h, v1.4s, #4", "narrow", 0, 0),
    ("rshrn2 v0.8h, v1.4s, #9", "narrow", 0, 0),
    ("addhn v0.4h, v1.4s, v2.4s", "narrow", 0, 0),
    ("zip1 v0.16b, v1.16b, v2.16b", "permute", 0, 0),
    ("uzp2 v0.8h, v1.8h, v2.8h", "permute", 0, 0),
    ("trn1 v0.4s, v1.4s, v2.4s", "permute", 0, 0),
    ("ext v0.16b, v1.16b, v2.16b, #4", "permute", 0, 0),
    ("tbl v0.16b, {v1.16b}, v2.16b", "permute", 0, 0),
    ("tbx v0.16b, {v1.16b, v2.16b}, v3.16b", "permute", 0, 0),
    ("rev64 v0.4s, v1.4s", "permute", 0, 0),
    ("dup v0.4s, v1.s[2]", "vector move", 0, 0),
    ("dup v0.16b, w1", "vector move", 0, 0),
    ("mov v0.16b, v1.16b", "vector move", 0, 0),
    ("mov v0.s[1], w2", "vector move", 0, 0),
    ("mov d0, v1.d[1]", "vector move", 0, 0),
    ("umov w0, v1.b[3]", "vector move", 0, 0),
    ("movi v0.2d, #0", "vector move", 0, 0),
    ("mvni v0.4s, #7", "vector move", 0, 0),
    ("fmov x0, d1", "vector move", 0, 0),
    ("fmov s1, w0", "vector move", 0, 0),
    ("add v0.4s, v1.4s, v2.4s", "vector arithmetic", 0, 0),
    ("orr v0.16b, v1.16b, v2.16b", "vector arithmetic", 0, 0),
    ("smax v0.16b, v1.16b, v2.16b", "vector arithmetic", 0, 0),
    ("sqadd v0.8h, v1.8h, v2.8h", "vector arithmetic", 0, 0),
    ("sshll v0.8h, v1.8b, #0", "vector arithmetic", 0, 0),
    ("sqshl v0.8h, v1.8h, #2", "vector arithmetic", 0, 0),
    ("saddw v0.8h, v1.8h, v2.8b", "vector arithmetic", 0, 0),
    ("abs v0.4s, v1.4s", "vector arithmetic", 0, 0),
    ("add d0, d1, d2", "vector arithmetic", 0, 0),
    ("fadd v0.4s, v1.4s, v2.4s", "floating point", 0, 0),
    ("fmla v0.4s, v1.4s, v2.s[1]", "floating point", 0, 0),
    ("fcvtns v0.4s, v1.4s", "floating point", 0, 0),
    ("scvtf v0.4s, v1.4s", "floating point", 0, 0),
    ("scvtf s0, w1", "floating point", 0, 0),
    ("fmadd s0, s1, s2, s3", "floating point", 0, 0),
    ("fmul d0, d1, d2", "floating point", 0, 0),
    ("ldr q0, [x1]", "vector load", 16, 0),
    ("ldr d0, [x1, #8]!", "vector load", 8, 0),
    ("ldr s0, [x1], #4", "vector load", 4, 0),
    ("ldr b0, [x1, x2]", "vector load", 1, 0),
    ("ldur q0, [x1, #-3]", "vector load", 16, 0),
    ("ldp q0, q1, [x2]", "vector load", 32, 0),
    ("ldp d0, d1, [x2], #16", "vector load", 16, 0),
    ("stp s0, s1, [x2]", "vector store", 0, 8),
    ("str q0, [x1, #16]", "vector store", 0, 16),
    ("st1 {v0.16b}, [x0], #16", "vector store", 0, 16),
    ("st1 {v0.8b, v1.8b}, [x0]", "vector store", 0, 16),
    ("st1 {v0.s}[1], [x0]", "vector store", 0, 4),
    ("st4 {v0.8h, v1.8h, v2.8h, v3.8h}, [x0], x1", "vector store", 0, 64),
    ("ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [x0], #64", "vector load", 64, 0),
    ("ld1 {v0.4s, v1.4s, v2.4s}, [x0]", "vector load", 48, 0),
    ("ld2 {v0.8b, v1.8b}, [x0]", "vector load", 16, 0),
    ("ld3 {v0.16b, v1.16b, v2.16b}, [x0]", "vector load", 48, 0),
    ("ld1 {v0.b}[7], [x0]", "vector load", 1, 0),
    ("ld1 {v0.d}[1], [x0], #8", "vector load", 8, 0),
    ("ld1r {v0.4s}, [x0]", "vector load", 4, 0),
    ("ld2r {v0.8h, v1.8h}, [x0]", "vector load", 4, 0),
    ("ldr x0, [x1]", "integer load", 8, 0),
    ("ldr w0, [x1, w2, sxtw #2]", "integer load", 4, 0),
    ("ldrsb w0, [x1], #1", "integer load", 1, 0),
    ("ldrh w0, [x1]", "integer load", 2, 0),
    ("ldrsw x0, [x1]", "integer load", 4, 0),
    ("ldp x29, x30, [sp], #32", "integer load", 16, 0),
    ("ldpsw x0, x1, [x2]", "integer load", 8, 0),
    ("ldr x0, 0", "integer load", 8, 0),
    ("stp w0, w1, [x2]", "integer store", 0, 8),
    ("strb w0, [x1, #5]", "integer store", 0, 1),
    ("prfm pldl1keep, [x0]", "prefetch", 0, 0),
    ("ldxr w0, [x1]", "atomic", 4, 0),
    ("stlr x0, [x1]", "atomic", 0, 8),
    ("ldadd w0, w1, [x2]", "atomic", 4, 4),
    ("add x0, x1, x2", "integer", 0, 0),
    ("madd x0, x1, x2, x3", "integer", 0, 0),
    ("adrp x0, .", "integer", 0, 0),
    ("csel w0, w1, w2, lt", "integer", 0, 0),
    ("b.ne .", "branch", 0, 0),
    ("bl .", "branch", 0, 0),
    ("cbz x0, .", "branch", 0, 0),
    ("ret", "branch", 0, 0),
    ("nop", "system", 0, 0),
    ("svc #0", "system", 0, 0),
    ("mrs x0, tpidr_el0", "system", 0, 0),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The instructions of ``CASES``, assembled."""
    try:
        compiler = find("aarch64")
    except Mnv3cError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("isa")
    source = folder / "cases.s"
    source.write_text(".arch armv8.6-a+dotprod+i8mm\n.text\n" + "".join(f"{text}\n" for text, *_ in CASES))
    run(compiler, ["-c", str(source), "-o", str(folder / "cases.o")], "assembling")
    with (folder / "cases.o").open("rb") as file:
        code = ELFFile(file).get_section_by_name(".text").data()
    return [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4)]


def test_all_were_assembled(words):
    assert len(words) == len(CASES)


@pytest.mark.parametrize("i", range(len(CASES)), ids=[c[0] for c in CASES])
def test_class_and_bytes(words, i):
    _, kind, loads, stores = CASES[i]
    decoded = isa.decode(words[i])
    assert (decoded.kind, decoded.loads, decoded.stores) == (kind, loads, stores)


@pytest.mark.parametrize("i", range(len(CASES)), ids=[c[0] for c in CASES])
def test_blocks_end_at_branches_and_system_calls(words, i):
    text, kind, *_ = CASES[i]
    assert isa.decode(words[i]).ends_block == (kind == "branch" or text.startswith("svc"))


def test_every_class_is_explained():
    assert {kind for _, kind, *_ in CASES} | {"other"} == set(isa.CLASSES)
    assert set(isa.MULTIPLY_ACCUMULATE) < set(isa.CLASSES)


@pytest.mark.parametrize("word", [0x00000000, 0xFFFFFFFF, 0x04200000, 0xC0800000])
def test_what_is_no_base_instruction_is_still_a_class(word):
    assert isa.decode(word).kind in isa.CLASSES
