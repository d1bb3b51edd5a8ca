"""Small hand-written libraries that keep the interface of generated ones, well behaved or not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

HEADER = """
#include <stdint.h>
#include <string.h>
typedef struct { const int8_t *x; const int16_t *k; } tiny_inputs;
typedef struct { int8_t *y; int16_t *z; } tiny_outputs;
typedef struct {
  void (*parallel_for)(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg);
  void *parallel_ctx;
  void (*on_layer)(void *ctx, int32_t layer, int32_t begin);
  void *layer_ctx;
  int32_t path;
} tiny_exec;
"""
BODY = """
static const int8_t *const table[2] = {(const int8_t *)"\\1\\2\\3", (const int8_t *)"\\4\\5\\6"};
typedef struct { const tiny_inputs *in; const tiny_outputs *out; uint8_t *arena; } job;
static void share(void *arg, int32_t part) {
  const job *const j = (const job *)arg;
  for (int i = part * 12; i < part * 12 + 12; i++) j->arena[i] = (uint8_t)(j->in->x[i] + table[part][i % 3]);
}
int tiny_run(const tiny_inputs *in, const tiny_outputs *out, void *arena, const tiny_exec *exec) {
  job j = {in, out, arena};
  if (((uintptr_t)arena & 63) != 0) return 2;
  if (exec && exec->parallel_for) exec->parallel_for(exec->parallel_ctx, 2, share, &j);
  else for (int i = 0; i < 2; i++) share(&j, i);
  memcpy(out->y, arena, 24);
  out->z[0] = (int16_t)(in->k[0] * 3);
  MISBEHAVE
  return 0;
}
int32_t tiny_best_path(void) { return 1; }
"""
MANIFEST = {
    "format": 1,
    "name": "tiny",
    "settings": {"target": "arm64"},
    "inputs": [
        {"name": "x", "shape": [2, 3, 4], "dtype": "int8", "scale": [0.5], "zero_point": [0]},
        {"name": "k", "shape": [1, 1, 1], "dtype": "int16", "scale": 0.25, "zero_point": 0},
    ],
    "outputs": [
        {"name": "y", "shape": [2, 3, 4], "dtype": "int8"},
        {"name": "z", "shape": [1, 1, 1], "dtype": "int16"},
    ],
    "arena_bytes": 100,
    "paths": ["ref"],
}


def make(folder: Path, misbehave: str = "", before: str = "", **manifest: object) -> Path:
    """Write the library; ``misbehave`` is C at the end of ``tiny_run``, ``before`` C before it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = HEADER + before + BODY.replace("MISBEHAVE", misbehave)
    (folder / "tiny.c").write_text(text)
    files = {"tiny.c": {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}}
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "files": files, **manifest}))
    return folder
