/* Runs the candidates of a batch under an emulator that counts, each once to check and once to count.
 *
 *   program INPUTS RESULTS FIRST LAST SECONDS
 *
 * INPUTS: for each candidate an int64_t, where in the file its inputs begin; each input padded to 64 bytes.
 * RESULTS: appended for each candidate that returned: int32_t number, int32_t returned, its outputs, each padded
 * to 64 bytes. One that crashes, or computes for more than SECONDS (a busy machine ends nothing that is fast), ends
 * the program: what is in the file tells which.
 *
 * Buffers and stack lie at the same addresses for every candidate: where a cache line falls must not depend on
 * who came before. Functions are named mnv3c_bench_*, so that their instructions can be left out of the counts;
 * a marker is a system call that no system has, as in templates/bench/harness.c.j2. */
#define _GNU_SOURCE
#include "batch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { MARK_IDLE = 0, MARK_RUN = 1, MARK_BETWEEN = 3 };
enum { MAX_TENSORS = 16, MAX_LAYERS = 64, PAGE = 1 << 12, STACK_BYTES = 1 << 20, JUNK = 0xA5 };
#define BUFFERS UINT64_C(0x1000000000)

__attribute__((noinline)) void mnv3c_bench_mark(uint64_t kind, uint64_t argument) {
  register uint64_t x8 __asm__("x8") = 9001;
  register uint64_t x0 __asm__("x0") = kind;
  register uint64_t x1 __asm__("x1") = argument;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x8) : "memory");
}

/* Calls run(inputs, outputs, arena, exec) with the stack pointer at `top`. */
int mnv3c_bench_on_stack(const void *inputs, const void *outputs, void *arena, const void *exec,
                         int (*run)(const void *, const void *, void *, const void *), uint8_t *top);
__asm__(
    ".text\n"
    ".type mnv3c_bench_on_stack, %function\n"
    "mnv3c_bench_on_stack:\n"
    "  stp x29, x30, [sp, #-32]!\n"
    "  str x19, [sp, #16]\n"
    "  mov x19, sp\n"
    "  mov sp, x5\n"
    "  blr x4\n"
    "  mov sp, x19\n"
    "  ldr x19, [sp, #16]\n"
    "  ldp x29, x30, [sp], #32\n"
    "  ret\n"
    ".size mnv3c_bench_on_stack, .-mnv3c_bench_on_stack\n");

void mnv3c_bench_on_layer(void *ctx, int32_t layer, int32_t begin) {
  for (const int32_t *l = ctx; *l >= 0; ++l) {
    if (*l == layer) {
      mnv3c_bench_mark(begin != 0 ? MARK_RUN : MARK_BETWEEN, (uint64_t)layer);
    }
  }
}

static uint64_t mnv3c_bench_pages(int64_t bytes) { return ((uint64_t)bytes + PAGE - 1) / PAGE * PAGE; }

/* Fresh memory at `at`, with a page behind it that nobody may touch. */
static uint8_t *mnv3c_bench_map(uint64_t *at, int64_t bytes) {
  uint8_t *const p = mmap((void *)*at, mnv3c_bench_pages(bytes), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (p == MAP_FAILED) {
    exit(3);
  }
  for (int64_t i = 0; i < bytes; ++i) {
    p[i] = JUNK;
  }
  *at += mnv3c_bench_pages(bytes) + PAGE;
  return p;
}

static void mnv3c_bench_write(int file, const void *data, size_t bytes) {
  if (write(file, data, bytes) != (ssize_t)bytes) {
    exit(3);
  }
}

/* All that a counted run reads of ours. */
typedef struct {
  void *inputs[MAX_TENSORS], *outputs[MAX_TENSORS];
  mnv3c_exec plain, exec;
  int32_t layers[MAX_LAYERS];
} mnv3c_bench_frame;

static void mnv3c_bench_candidate(int32_t number, const uint8_t *input, int results) {
  static const uint8_t padding[64];
  const mnv3c_candidate *const c = &mnv3c_candidates[number];
  const int whole = c->layers[0] < 0;
  uint64_t at = BUFFERS;
  int32_t head[2] = {number, 0};
  uint8_t *const stack = mnv3c_bench_map(&at, STACK_BYTES);
  mnv3c_bench_frame *const f = (void *)mnv3c_bench_map(&at, sizeof *f);
  uint8_t *arena;
  f->plain = (mnv3c_exec){0, 0, 0, 0, c->path};
  f->exec = (mnv3c_exec){0, 0, whole ? 0 : mnv3c_bench_on_layer, f->layers, c->path};
  for (int32_t i = 0; i < MAX_LAYERS; ++i) {
    f->layers[i] = c->layers[i];
    if (c->layers[i] < 0) {
      break;
    }
  }
  for (int32_t i = 0; i < c->inputs + c->outputs; ++i) {
    uint8_t *const p = mnv3c_bench_map(&at, c->bytes[i]);
    if (i < c->inputs) {
      for (int64_t b = 0; b < c->bytes[i]; ++b) {
        p[b] = input[b];
      }
      input += (c->bytes[i] + 63) / 64 * 64;
      f->inputs[i] = p;
    } else {
      f->outputs[i - c->inputs] = p;
    }
  }
  arena = mnv3c_bench_map(&at, c->arena_bytes);
  mnv3c_bench_mark(MARK_IDLE, (uint64_t)number);
  /* The first run fills the caches too: what is counted is the steady state. */
  head[1] = mnv3c_bench_on_stack(f->inputs, f->outputs, arena, &f->plain, c->run, stack + STACK_BYTES);
  mnv3c_bench_mark(whole ? MARK_RUN : MARK_BETWEEN, 0);
  (void)mnv3c_bench_on_stack(f->inputs, f->outputs, arena, &f->exec, c->run, stack + STACK_BYTES);
  mnv3c_bench_mark(MARK_BETWEEN, 0);
  mnv3c_bench_write(results, head, sizeof head);
  for (int32_t i = 0; i < c->outputs; ++i) {
    const int64_t bytes = c->bytes[c->inputs + i];
    mnv3c_bench_write(results, f->outputs[i], (size_t)bytes);
    mnv3c_bench_write(results, padding, (size_t)(-bytes & 63));
  }
  (void)munmap((void *)BUFFERS, at - BUFFERS);
}

int main(int argc, char **argv) {
  struct stat about;
  int inputs, results;
  const uint8_t *data;
  if (argc != 6) {
    return 2;
  }
  inputs = open(argv[1], O_RDONLY);
  results = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (inputs < 0 || results < 0 || fstat(inputs, &about) != 0) {
    return 3;
  }
  if (atoi(argv[4]) == 0) { /* a trial of the emulator */
    mnv3c_bench_mark(MARK_IDLE, 0);
    return 0;
  }
  data = mmap(0, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, inputs, 0);
  if (data == MAP_FAILED) {
    return 3;
  }
  for (int32_t i = atoi(argv[3]); i < atoi(argv[4]); ++i) {
    const struct itimerval limit = {.it_value.tv_sec = atoi(argv[5])};
    (void)setitimer(ITIMER_PROF, &limit, NULL);
    mnv3c_bench_candidate(i, data + ((const int64_t *)(const void *)data)[i], results);
  }
  mnv3c_bench_mark(MARK_IDLE, 0);
  return 0;
}
