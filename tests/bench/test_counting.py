"""The counting plugin: exact counts of a known loop, and the caches against a plain model."""

from __future__ import annotations

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from mnv3c.bench import code, qemu, segments
from mnv3c.errors import CheckFailed, Mnv3cError
from mnv3c.toolchain import build_executable, find

_MARK = """
static __attribute__((noinline)) void mnv3c_bench_mark(unsigned long kind, unsigned long argument) {
  register unsigned long x8 __asm__("x8") = 9001, x0 __asm__("x0") = kind, x1 __asm__("x1") = argument;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x8) : "memory");
}
"""
_LOOP = (
    _MARK
    + """
void kernel(const void *data, unsigned long n);
__asm__(".arch armv8.2-a+dotprod\\n.text\\n.globl kernel\\n.type kernel, %function\\nkernel:\\n"
        "  movi v0.4s, #0\\n"
        "1: ldr q1, [x0]\\n"
        "  sdot v0.4s, v1.16b, v1.16b\\n"
        "  sdot v0.4s, v1.16b, v1.4b[2]\\n"
        "  subs x1, x1, #1\\n"
        "  b.ne 1b\\n"
        "  sqxtn v0.4h, v0.4s\\n"
        "  st1 {v0.4h}, [x0]\\n"
        "  ret\\n"
        ".size kernel, .-kernel\\n");
static _Alignas(64) unsigned char data[64];
int main(void) {
  mnv3c_bench_mark(1, 0);
  kernel(data, 1000);
  mnv3c_bench_mark(2, 7);
  kernel(data, 3);
  mnv3c_bench_mark(0, 0);
  return 0;
}
"""
)
_WALK = (
    _MARK
    + """
_Alignas(64) unsigned char walked[1 << 19];
__attribute__((noinline)) static void mnv3c_bench_walk(unsigned n) {
  unsigned r = 1;
  for (unsigned i = 0; i < n; ++i) {
    r = r * 1664525u + 1013904223u;
    /* Three of four accesses to the first 16 KiB, the rest anywhere, at any alignment. */
    unsigned at = (r >> 8) % (i % 4 ? 1u << 14 : (1u << 19) - 8);
    (void)*(volatile unsigned long *)(walked + at);
  }
}
int main(void) {
  mnv3c_bench_mark(1, 0);
  mnv3c_bench_walk(20000);
  mnv3c_bench_mark(0, 0);
  return 0;
}
"""
)


@pytest.fixture(scope="module", autouse=True)
def _needs_qemu():
    if qemu.available() is None:
        pytest.skip("qemu-aarch64 is not installed")


def _build(text, tmp_path):
    try:
        compiler = find("aarch64")
    except Mnv3cError as error:
        pytest.skip(str(error))
    source = tmp_path / "program.c"
    source.write_text(text)
    return build_executable(
        compiler, [source], tmp_path / "program", flags=["-fno-pie", "-no-pie", "-std=gnu11"]
    )


def test_a_known_loop_is_counted_exactly(tmp_path):
    program = _build(_LOOP, tmp_path)
    found = {s.kind: s for s in qemu.count(program, "cortex-a76")}
    loaded = code.read(program.read_bytes())
    for kind, n in ((segments.RUN, 1000), (segments.LAYER, 3)):
        kernel = _only(program, "kernel", loaded, code.instruction_counts(loaded, found[kind].blocks))
        assert code.by_class(loaded, kernel) == {
            "dot": 2 * n,
            "narrow": 1,
            "vector move": 1,
            "vector load": n,
            "vector store": 1,
            "integer": n,
            "branch": n + 1,
        }
        assert code.bytes_moved(loaded, kernel) == (16 * n, 8)
    assert found[segments.LAYER].argument == 7
    kernel = _only(program, "kernel", loaded, code.instruction_counts(loaded, found[segments.RUN].blocks))
    blocks = code.basic_blocks(loaded, kernel)
    # Entry, loop, exit.
    assert [b.last - b.first + 1 for b in blocks] == [1, 5, 3]
    assert [kernel[b.first] for b in blocks] == [1, 1000, 1]


def _only(program, name, loaded, counts):
    with program.open("rb") as file:
        symbol = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name(name)[0]
    first = (symbol["st_value"] - loaded.base) // 4
    kept = np.zeros_like(counts)
    kept[first : first + symbol["st_size"] // 4] = counts[first : first + symbol["st_size"] // 4]
    return kept


@pytest.mark.parametrize(
    ("l1", "l2"), [((32768, 4), (262144, 8)), ((4096, 2), (8192, 1)), ((64 * 3 * 5, 3), (16384, 16))]
)
def test_caches_against_a_plain_model(tmp_path, l1, l2):
    program = _build(_WALK, tmp_path)
    run = next(s for s in qemu.count(program, "cortex-a53", l1=l1, l2=l2) if s.kind == segments.RUN)
    with program.open("rb") as file:
        base = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name("walked")[0]["st_value"]
    addresses, r = [], 1
    for i in range(20000):
        r = (r * 1664525 + 1013904223) % 2**32
        addresses.append(base + (r >> 8) % (1 << 14 if i % 4 else (1 << 19) - 8))
    memory = run.memory
    assert (memory.loads, memory.bytes_loaded, memory.stores) == (20000, 160000, 0)
    assert (memory.l1_fills, memory.l2_fills) == _plain_fills(addresses, 8, l1, l2)


def _plain_fills(addresses, size, l1, l2):
    """Lists of lines, the least recently used first."""

    def hit(cache, sets, ways, line):
        lines = cache.setdefault(line % sets, [])
        found = line in lines
        if found:
            lines.remove(line)
        lines.append(line)
        del lines[:-ways]
        return found

    caches, fills = ({}, {}), [0, 0]
    for address in addresses:
        for line in range(address // 64, (address + size - 1) // 64 + 1):
            for level, (cache, (capacity, ways)) in enumerate(zip(caches, (l1, l2), strict=True)):
                if hit(cache, capacity // 64 // ways, ways, line):
                    break
                fills[level] += 1
    return tuple(fills)


def test_a_program_that_fails_is_a_failed_check(tmp_path):
    program = _build("int main(void) { __builtin_trap(); }", tmp_path)
    with pytest.raises(CheckFailed, match="cortex-a53"):
        qemu.count(program, "cortex-a53")


def test_overlapping_translations_add_up():
    loaded = code.Code(0x1000, np.array([0xD503201F] * 8, np.uint32), np.zeros(8, bool))
    # One block from the start, one entered in its middle, one that was cut at a page's end.
    counts = code.instruction_counts(loaded, {(0x1000, 8): 2, (0x1010, 4): 3, (0x1000, 4): 1})
    assert counts.tolist() == [3, 3, 3, 3, 5, 5, 5, 5]
    assert code.basic_blocks(loaded, counts) == [code.Block(0, 3), code.Block(4, 7)]
    # Addresses outside the program (the vDSO, say) are nobody's.
    assert not code.instruction_counts(loaded, {(0x9000, 8): 2}).any()


def test_neighbours_without_a_branch_are_one_block():
    loaded = code.Code(
        0, np.array([0xD503201F] * 4 + [0xD65F03C0] + [0xD503201F] * 3, np.uint32), np.zeros(8, bool)
    )
    counts = code.instruction_counts(loaded, {(0, 2): 7, (8, 3): 7, (20, 3): 7})
    # Cut by the return in the middle, not by where the emulator cut.
    assert code.basic_blocks(loaded, counts) == [code.Block(0, 4), code.Block(5, 7)]


def test_the_harness_is_left_out():
    loaded = code.Code(0, np.array([0xD503201F] * 4, np.uint32), np.array([False, True, True, False]))
    assert code.instruction_counts(loaded, {(0, 4): 5}).tolist() == [5, 0, 0, 5]


@pytest.mark.parametrize(
    "text", ["B 0 1 2 x", "X 1", "M 1", "C 1 2 3 4 5 6", "M 1 2\nC 1 2", "B zz 1 1", "\n"]
)
def test_damaged_counts(text):
    if text == "B 0 1 2 x":
        text = "B 0 1 x"
    with pytest.raises(Mnv3cError, match="damaged counts"):
        segments.parse(text.splitlines())


def test_counts_are_parsed():
    found = segments.parse(["M 2 5", "B 4010f0 12 7", "C 1 2 3 4 5 6", "M 0 0"])
    assert found[0].blocks == {(0x4010F0, 12): 7}
    assert found[0].memory == segments.Memory(1, 2, 3, 4, 5, 6)
    assert (found[1].kind, found[1].blocks, found[1].memory) == (0, {}, None)
