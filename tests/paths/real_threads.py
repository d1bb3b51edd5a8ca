"""Runs a library's layers on real threads, their shares taken in any order, under user-mode emulation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from mnv3c import targets, toolchain
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from mnv3c.runners import Library
from mnv3c.runners.process import qemu
from tests.graphs import random_inputs
from tests.paths.harness import assert_equal

# MOST threads take the shares of a layer one by one, from a random one on and with a random step.
MAIN = """
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define MOST 8
typedef struct {
  void (*parallel_for)(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg);
  void *parallel_ctx, *on_layer, *layer_ctx;
  int32_t path;
} exec_t;
typedef struct {
  int32_t n, first, step, next;
  void (*fn)(void *arg, int32_t i);
  void *arg;
} work_t;
int RUN(const void *inputs, const void *outputs, void *arena, const exec_t *exec);
static int workers;
static void *work(void *w_) {
  work_t *w = (work_t *)w_;
  for (;;) {
    const int32_t i = __atomic_fetch_add(&w->next, 1, __ATOMIC_SEQ_CST);
    if (i >= w->n) return 0;
    if (rand() % 2) sched_yield();
    w->fn(w->arg, (w->first + i * w->step) % w->n);
  }
}
static int32_t gcd(int32_t a, int32_t b) { return b ? gcd(b, a % b) : a; }
static void parallel_for(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg) {
  work_t w = {n, rand() % n, 1 + rand() % n, 0, fn, arg};
  pthread_t threads[MOST];
  (void)ctx;
  while (gcd(w.step, n) != 1) ++w.step;
  for (int i = 0; i < workers; ++i) {
    if (pthread_create(&threads[i], 0, work, &w) != 0) exit(5);
  }
  for (int i = 0; i < workers; ++i) {
    (void)pthread_join(threads[i], 0);
  }
}
int main(int argc, char **argv) {
  void *in[MOST], *out[MOST];
  size_t bytes[MOST];
  int inputs = 0, outputs = 0;
  FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
  workers = atoi(argv[3]);
  void *const arena = aligned_alloc(64, (size_t)atol(argv[4]));
  for (int i = 5; i < argc; ++i) {
    const size_t size = (size_t)labs(atol(argv[i]));
    void *const data = aligned_alloc(64, (size + 63) / 64 * 64);
    if (argv[i][0] != '-') {
      if (fread(data, 1, size, from) != size) return 4;
      in[inputs++] = data;
    } else {
      bytes[outputs] = size;
      out[outputs++] = data;
    }
  }
  memset(arena, 0x5a, (size_t)atol(argv[4]));
  const exec_t exec = {parallel_for, 0, 0, 0, 0};
  const int status = RUN(in, out, arena, &exec);
  for (int i = 0; i < outputs; ++i) {
    if (fwrite(out[i], 1, bytes[i], to) != bytes[i]) return 4;
  }
  return status != 0 || fclose(to) != 0;
}
"""


_ARCHITECTURES = {"arm64": "aarch64", "armv7": "armv7"}


def can_run(target: str) -> bool:
    """Whether there are a compiler and an emulator for ``target`` (``arm64``, ``armv7``)."""
    return _compiler(target) is not None and qemu(_ARCHITECTURES[target]) is not None


def _compiler(target: str) -> toolchain.Compiler | None:
    found = toolchain.candidates(_ARCHITECTURES[target])
    return next((c for c in found if c.kind in ("gcc", "clang")), None)


def check_threads(
    library: Library, graph: Graph, folder: Path, target: str = "arm64", workers: tuple[int, ...] = (2, 5)
) -> None:
    """Assert that a library of one path gives the reference's bits on that many threads."""
    compiler, emulator = _compiler(target), qemu(_ARCHITECTURES[target])
    assert compiler is not None and emulator is not None
    folder = folder / "threads"
    folder.mkdir()
    (folder / "main.c").write_text(MAIN)
    flags = [*targets.get(target).flags[compiler.kind], f"-DRUN={library.name}_run", "-pthread"]
    program = toolchain.build_executable(
        compiler, [*library.sources, folder / "main.c"], folder / "program", flags=flags
    )
    inputs = random_inputs(graph, 0)
    (folder / "in.bin").write_bytes(b"".join(inputs[name].tobytes() for name in graph.inputs))
    expected = integer.run(graph, inputs)
    sizes = [inputs[name].nbytes for name in graph.inputs] + [
        -expected[name].nbytes for name in graph.outputs
    ]
    for count in workers:
        argv = [emulator, str(program), str(folder / "in.bin"), str(folder / "out.bin"), str(count)]
        argv += [str(n) for n in (library.arena_bytes, *sizes)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, (done.returncode, done.stderr)
        data, at = (folder / "out.bin").read_bytes(), 0
        for name in graph.outputs:
            want = expected[name]
            got = np.frombuffer(data, want.dtype, want.size, at).reshape(want.shape)
            at += want.nbytes
            assert_equal(got, want, f"{target}, {count} threads, output {name}")
