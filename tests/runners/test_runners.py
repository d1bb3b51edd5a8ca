"""Every runner gives the same answers, and none lets a misbehaving library pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.runners import RunFault, open_library, open_runner
from mnv3c.runners.process import qemu
from tests.runners.handmade import make

EMULATED = [
    "unicorn",
    pytest.param("qemu", marks=pytest.mark.skipif(qemu() is None, reason="qemu-aarch64 is not installed")),
]
EVERY = ["host", *EMULATED]
SDOT = '__asm__ volatile(".inst 0x4e829420" ::: "v0");'  # sdot v0.4s, v1.16b, v2.16b
SMMLA = '__asm__ volatile(".inst 0x4e82a420" ::: "v0");'  # smmla v0.4s, v1.16b, v2.16b


def inputs(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-100, 100, (2, 3, 4)).astype(np.int8), np.array([[[seed + 7]]], np.int16)]


def expected(arrays: list[np.ndarray]) -> list[np.ndarray]:
    added = np.tile([1, 2, 3], 4), np.tile([4, 5, 6], 4)
    return [(arrays[0].ravel() + np.concatenate(added)).astype(np.int8).reshape(2, 3, 4), arrays[1] * 3]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", EVERY)
def test_answers(tmp_path: Path, kind: str, parallel: bool) -> None:
    runner = open_runner(open_library(make(tmp_path / "lib")), "ref", kind, parallel=parallel)
    for seed in range(3):
        arrays = inputs(seed)
        for got, want in zip(runner.run(arrays), expected(arrays), strict=True):
            assert got.dtype == want.dtype and np.array_equal(got, want)
    runner.close()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        ("return 5;", "run returned 5"),
        ("((volatile uint8_t *)arena)[100] ^= 1;", r"wrote outside: arena( at byte |\[)100"),
        ("((volatile int8_t *)out->y)[-1] ^= 1;", r"wrote outside|bad (read|memory)"),
        ("((volatile int8_t *)out->y)[24] ^= 1;", r"wrote outside|bad (read|memory)"),
    ],
    ids=["status", "arena", "before-output", "after-output"],
)
def test_faults_are_reported(tmp_path: Path, kind: str, misbehave: str, message: str) -> None:
    runner = open_runner(open_library(make(tmp_path / "lib", misbehave)), "ref", kind)
    with pytest.raises(RunFault, match=rf"path ref on .*({message})"):
        for seed in range(2):  # buffers lie against one end of their pages, then the other
            runner.run(inputs(seed))


@pytest.mark.parametrize("kind", EMULATED)
@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        ("((volatile int8_t *)in->x)[0] = 1;", "bad"),
        ("(void)((volatile int8_t *)in->x)[24];", "bad"),
        ("(void)((volatile int8_t *)in->x)[-1];", "bad"),
        ("*(volatile int *)16 = 1;", "bad"),
        ('__asm__ volatile(".inst 0");', "illegal instruction"),
        (SDOT, "illegal instruction"),
    ],
    ids=["write-input", "read-after", "read-before", "wild", "udf", "sdot-on-a53"],
)
def test_emulated_faults(tmp_path: Path, kind: str, misbehave: str, message: str) -> None:
    runner = open_runner(open_library(make(tmp_path / "lib", misbehave)), "ref", kind)
    with pytest.raises(RunFault, match=rf"path ref on cortex-a53 .*{message}"):
        for seed in range(2):
            runner.run(inputs(seed))


@pytest.mark.parametrize("kind", EMULATED)
def test_core_decides_what_is_legal(tmp_path: Path, kind: str) -> None:
    library = open_library(make(tmp_path / "lib", SDOT))
    assert open_runner(library, "ref", kind, core="cortex-a76").run(inputs())[1] == 21
    if kind == "qemu":
        library = open_library(make(tmp_path / "lib", SMMLA))
        assert open_runner(library, "ref", kind, core="cortex-a510").run(inputs())[1] == 21
        with pytest.raises(RunFault, match="illegal instruction"):
            open_runner(library, "ref", kind, core="cortex-a76").run(inputs())


def test_unicorn_says_where(tmp_path: Path) -> None:
    def message(misbehave: str, before: str = "") -> str:
        runner = open_runner(open_library(make(tmp_path / "lib", misbehave, before)), "ref", "unicorn")
        with pytest.raises(RunFault) as caught:
            runner.run(inputs())
        return str(caught.value)

    assert "bad read of 1 bytes at input x[24] of 24 bytes in tiny_run+" in message(
        "(void)((volatile int8_t *)in->x)[24];"
    )
    assert "illegal instruction in tiny_run+" in message(SDOT) and "(instruction 0x4e829420)" in message(SDOT)
    deep = (
        "int deep(volatile int8_t *p, int n) {"
        " volatile int8_t q[4096]; q[0] = *p; return n ? deep(q, n - 1) + q[0] : q[0]; }"
    )
    assert "the stack, beyond" in message("out->y[0] = (int8_t)deep(out->y, 200);", deep)
    assert "did not end" in _timeout(tmp_path)


def _timeout(tmp_path: Path) -> str:
    from mnv3c.runners.emulated import UnicornRunner

    runner = UnicornRunner(
        open_library(make(tmp_path / "lib", "for (volatile int i = 0;;) i++;")), "ref", timeout=0.2
    )
    with pytest.raises(RunFault) as caught:
        runner.run(inputs())
    return str(caught.value)


def test_unicorn_measures_the_stack(tmp_path: Path) -> None:
    from mnv3c.runners.emulated import UnicornRunner

    runner = UnicornRunner(open_library(make(tmp_path / "lib")), "ref")
    runner.run(inputs())
    small = runner.stack_bytes
    big = "volatile uint8_t big[5000]; for (int i = 0; i < 5000; i++) big[i] = 1;"
    runner = UnicornRunner(open_library(make(tmp_path / "lib", big)), "ref")
    runner.run(inputs())
    assert 0 < small < 500 and 5000 <= runner.stack_bytes < 5600


def test_written_global_is_the_librarys_own_memory(tmp_path: Path) -> None:
    """A constant cannot be written; a pointer table is relocated before it is protected."""
    before = "static const int constant[4] = {1, 2, 3, 4};"
    runner = open_runner(
        open_library(
            make(tmp_path / "lib", "*(volatile int *)(uintptr_t)&constant[in->k[0] & 3] = 9;", before)
        ),
        "ref",
        "unicorn",
    )
    with pytest.raises(RunFault, match="bad write of 4 bytes at the library's own constants"):
        runner.run(inputs())


def test_undefined_symbol_fails_when_linking(tmp_path: Path) -> None:
    library = open_library(make(tmp_path / "lib", "out->y[0] = (int8_t)puts(0);", "int puts(const char *);"))
    with pytest.raises(Mnv3cError, match=r"undefined .*puts"):
        open_runner(library, "ref", "unicorn")


def test_compile_error_is_one_line(tmp_path: Path) -> None:
    library = open_library(make(tmp_path / "lib", "nonsense;"))
    with pytest.raises(Mnv3cError, match=r"compiling tiny\.c: .*error:.*nonsense"):
        open_runner(library, "ref", "unicorn")


def test_bad_requests(tmp_path: Path) -> None:
    library = open_library(make(tmp_path / "lib"))
    with pytest.raises(Mnv3cError, match="no path 'neon'"):
        open_runner(library, "neon")
    with pytest.raises(Mnv3cError, match="unknown runner"):
        open_runner(library, "ref", "board")
    runner = open_runner(library, "ref", "host")
    with pytest.raises(Mnv3cError, match="input x: must be int8"):
        runner.run([np.zeros((2, 3, 4), np.uint8), np.zeros((1, 1, 1), np.int16)])
    with pytest.raises(Mnv3cError, match="1 inputs given"):
        runner.run([np.zeros((2, 3, 4), np.int8)])


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(Mnv3cError, match="no generated library here"):
        open_library(tmp_path)
    folder = make(tmp_path / "lib")
    assert open_library(folder).changed_files() == []
    (folder / "tiny.c").write_text("changed")
    assert open_library(folder).changed_files() == ["tiny.c was changed"]
    (folder / "tiny.c").unlink()
    assert open_library(folder).changed_files() == ["tiny.c is missing"]
    for text in ("{", "[]", '{"name": "x"}', (folder / "manifest.json").read_text().replace("int8", "int9")):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(Mnv3cError, match="damaged manifest"):
            open_library(folder)


def test_a_stray_source_in_the_folder_is_not_compiled(tmp_path: Path) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "mine.c").write_text("#error not part of the library\n")
    assert [p.name for p in open_library(folder).sources] == ["tiny.c"]
