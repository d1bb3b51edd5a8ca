/* Runs a library with its work divided, and writes what came out: shares THREADS SEED INPUT OUTPUT
 * INPUT_BYTES OUTPUT_BYTES ARENA_BYTES PATH.
 *
 * THREADS 0: every share of a layer runs from the state before the layer, and no two may change the same
 * byte; then all run one after the other in random order. THREADS -1: nothing is divided. Else so many
 * threads take the shares, of which random ones come first. Compiled with RUN=<name>_run; one input and one output. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void (*parallel_for)(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg);
  void *parallel_ctx;
  void (*on_layer)(void *ctx, int32_t layer, int32_t begin);
  void *layer_ctx;
  int32_t path;
} exec_t;

int RUN(const void *inputs, const void *outputs, void *arena, const exec_t *exec);

enum { MOST = 64 };

static uint8_t *arena, *out, *arena_before, *out_before, *owners;
static size_t arena_bytes, out_bytes;
static int threads, layer, divided;
static uint32_t state;

static uint32_t next_random(void) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

static void shuffled(int32_t *order, int32_t n) {
  for (int32_t i = 0; i < n; i++) order[i] = i;
  for (int32_t i = n - 1; i > 0; i--) {
    const int32_t j = (int32_t)(next_random() % (uint32_t)(i + 1)), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

static void entered(void *ctx, int32_t number, int32_t begin) {
  (void)ctx;
  if (begin) layer = number;
}

static void restore(void) {
  memcpy(arena, arena_before, arena_bytes);
  memcpy(out, out_before, out_bytes);
}

static void claim(const uint8_t *now, const uint8_t *before, uint8_t *owner, size_t bytes, int32_t share) {
  for (size_t i = 0; i < bytes; i++) {
    if (now[i] == before[i]) continue;
    if (owner[i] != 0 && owner[i] != share + 1) {
      (void)fprintf(stderr, "layer %d: byte %zu is written by shares %d and %d\n", layer, i, owner[i] - 1, (int)share);
      exit(3);
    }
    owner[i] = (uint8_t)(share + 1);
  }
}

static void checked(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg) {
  int32_t order[MOST];
  (void)ctx;
  divided++;
  memcpy(arena_before, arena, arena_bytes);
  memcpy(out_before, out, out_bytes);
  memset(owners, 0, arena_bytes + out_bytes);
  for (int32_t i = 0; i < n; i++) {
    fn(arg, i);
    claim(arena, arena_before, owners, arena_bytes, i);
    claim(out, out_before, owners + arena_bytes, out_bytes, i);
    restore();
  }
  shuffled(order, n);
  for (int32_t i = 0; i < n; i++) fn(arg, order[i]);
}

typedef struct {
  int32_t order[MOST], n, taken;
  void (*fn)(void *arg, int32_t i);
  void *arg;
} job;

static void *work(void *job_) {
  job *const j = job_;
  for (;;) {
    const int32_t i = __atomic_fetch_add(&j->taken, 1, __ATOMIC_RELAXED);
    if (i >= j->n) return 0;
    j->fn(j->arg, j->order[i]);
  }
}

static void threaded(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg) {
  pthread_t workers[MOST];
  job j = {.n = n, .fn = fn, .arg = arg};
  (void)ctx;
  divided++;
  shuffled(j.order, n);
  for (int i = 0; i < threads; i++) {
    if (pthread_create(&workers[i], 0, work, &j) != 0) exit(4);
  }
  for (int i = 0; i < threads; i++) (void)pthread_join(workers[i], 0);
}

static uint8_t *junk(size_t bytes) {
  uint8_t *const p = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (p == 0) exit(4);
  for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)next_random();
  return p;
}

int main(int argc, char **argv) {
  if (argc != 9) return 4;
  threads = atoi(argv[1]);
  state = (uint32_t)atoi(argv[2]);
  const size_t in_bytes = (size_t)atol(argv[5]);
  out_bytes = (size_t)atol(argv[6]);
  arena_bytes = (size_t)atol(argv[7]);
  uint8_t *const in = junk(in_bytes);
  arena = junk(arena_bytes), out = junk(out_bytes);
  arena_before = junk(arena_bytes), out_before = junk(out_bytes), owners = junk(arena_bytes + out_bytes);
  FILE *const source = fopen(argv[3], "rb");
  if (source == 0 || fread(in, 1, in_bytes, source) != in_bytes) return 4;
  const void *const inputs[1] = {in};
  const void *const outputs[1] = {out};
  const exec_t exec = {threads < 0 ? 0 : threads ? threaded : checked, 0, entered, 0, atoi(argv[8])};
  if (RUN(inputs, outputs, arena, &exec) != 0) return 4;
  FILE *const sink = fopen(argv[4], "wb");
  if (sink == 0 || fwrite(out, 1, out_bytes, sink) != out_bytes || fclose(sink) != 0) return 4;
  (void)printf("%d\n", divided);
  return 0;
}
