/* The candidates of a batch, for those who run them: shim.c on a device, simulated.c.j2 under an emulator. */
#ifndef MNV3C_BATCH_H
#define MNV3C_BATCH_H

#include <stdint.h>

/* What every generated library takes as its `exec`. */
typedef struct {
  void (*parallel_for)(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg);
  void *parallel_ctx;
  void (*on_layer)(void *ctx, int32_t layer, int32_t begin);
  void *layer_ctx;
  int32_t path;
} mnv3c_exec;

typedef struct {
  int (*run)(const void *inputs, const void *outputs, void *arena, const void *exec);
  int32_t path, inputs, outputs;
  const int64_t *bytes; /* of each input, then of each output */
  int64_t arena_bytes;
  const int32_t *layers; /* whose cost counts, ascending, ended by -1; none: the whole run's */
} mnv3c_candidate;

extern const mnv3c_candidate mnv3c_candidates[];
extern const int32_t mnv3c_candidate_count;

#endif
