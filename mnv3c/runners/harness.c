/* Runs a generated library on inputs from a file, with guarded buffers.
 *
 *   harness INPUT OUTPUT FIRST RUNS PATH PARALLEL CAMERA ARENA_BYTES INPUTS {BYTES ELEMENT}... OUTPUTS {BYTES ELEMENT}...
 *
 * Runs are numbered from FIRST: the number decides where buffers lie in their pages.
 * Compiled with RUN=<name>_run and BEST_PATH=<name>_best_path. The interface's structs are one pointer
 * a tensor, so arrays of pointers stand for them. CAMERA is 0; 1 to run frames, 2 for the images that are made of
 * them, which needs RUN_CAMERA=<name>_run_camera and CAMERA_IMAGE=<name>_camera_image: INPUT then holds for each
 * run the number of planes, their bytes (int32 each), the frame's struct and the planes. Exit codes: 0; 3 with a line on stderr when the
 * library misbehaved; 4 when this program was called wrongly. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 64

typedef struct {
  void (*parallel_for)(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg);
  void *parallel_ctx;
  void (*on_layer)(void *ctx, int32_t layer, int32_t begin);
  void *layer_ctx;
  int32_t path;
} exec_t;

int RUN(const void *inputs, const void *outputs, void *arena, const exec_t *exec);
int32_t BEST_PATH(void);
#ifdef RUN_CAMERA
int RUN_CAMERA(const void *frame, const void *outputs, void *arena, const exec_t *exec);
int CAMERA_IMAGE(const void *frame, void *image, void *arena);
#endif

typedef struct {
  uint8_t *pages, *data;
  size_t mapped, bytes, align;
} region;

static uint32_t random_state = 1;

static uint8_t random_byte(void) {
  random_state = random_state * 1664525u + 1013904223u;
  return (uint8_t)(random_state >> 24);
}

static void stop(int code, const char *what, long long detail) {
  (void)fprintf(stderr, "%s %lld\n", what, detail);
  exit(code);
}

/* Whole pages with a page that cannot be touched on both sides. */
static region map_region(size_t bytes, size_t align) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  region r;
  r.bytes = bytes;
  r.align = align;
  r.mapped = (bytes + page - 1) / page * page;
  r.mapped = r.mapped == 0 ? page : r.mapped;
  r.pages = mmap(0, r.mapped + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (r.pages == MAP_FAILED) stop(4, "cannot map", (long long)bytes);
  r.pages += page;
  return r;
}

static void protect(const region *r, int rights) {
  if (mprotect(r->pages, r->mapped, rights) != 0) stop(4, "cannot protect", (long long)r->mapped);
}

/* Data against the end of the pages in even runs, against their start in odd ones; junk everywhere. */
static void prepare(region *r, long run) {
  const uintptr_t last = (uintptr_t)(r->pages + r->mapped - r->bytes);
  protect(r, PROT_READ | PROT_WRITE);
  r->data = run % 2 == 0 ? r->pages + (last / r->align * r->align - (uintptr_t)r->pages) : r->pages;
  random_state = (uint32_t)run * 2654435761u + (uint32_t)r->bytes;
  for (size_t i = 0; i < r->mapped; i++) r->pages[i] = random_byte();
}

static void check_around(const region *r, long run, const char *what) {
  random_state = (uint32_t)run * 2654435761u + (uint32_t)r->bytes;
  for (size_t i = 0; i < r->mapped; i++) {
    const uint8_t before = random_byte();
    const int inside = r->pages + i >= r->data && r->pages + i < r->data + r->bytes;
    if (!inside && r->pages[i] != before) stop(3, what, (long long)(r->pages + i - r->data));
  }
}

#ifdef RUN_CAMERA
#define FRAME_BYTES 64
static union {
  const uint8_t *planes[3]; /* what the struct begins with */
  uint8_t bytes[FRAME_BYTES];
} frame;

static void must_read(void *to, size_t bytes, FILE *source) {
  if (fread(to, 1, bytes, source) != bytes) stop(4, "short frame:", (long long)bytes);
}

static void unmap(const region *r) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  (void)munmap(r->pages - page, r->mapped + 2 * page);
}

/* Runs the next frame of the file, its planes in memory of their own. */
static int run_frame(FILE *source, long run, int image, void *const *out, uint8_t *arena, const exec_t *exec) {
  region planes[3];
  int32_t count = 0, bytes[3];
  must_read(&count, sizeof count, source);
  if (count < 1 || count > 3) stop(4, "planes:", count);
  must_read(bytes, sizeof bytes[0] * (size_t)count, source);
  must_read(frame.bytes, FRAME_BYTES, source);
  for (int i = 0; i < count; i++) {
    planes[i] = map_region((size_t)bytes[i], 1);
    prepare(&planes[i], run);
    must_read(planes[i].data, planes[i].bytes, source);
    protect(&planes[i], PROT_READ);
    frame.planes[i] = planes[i].data;
  }
  const int status = image ? CAMERA_IMAGE(&frame, out[0], arena) : RUN_CAMERA(&frame, out, arena, exec);
  for (int i = 0; i < count; i++) unmap(&planes[i]);
  return status;
}
#endif

static void reversed(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg) {
  (void)ctx;
  while (n > 0) fn(arg, --n);
}

static long long number(char **argv, int argc, int *at) {
  if (*at >= argc) stop(4, "too few arguments:", argc);
  return strtoll(argv[(*at)++], 0, 10);
}

static int read_regions(char **argv, int argc, int *at, region *into) {
  const int n = (int)number(argv, argc, at);
  if (n < 1 || n > MOST) stop(4, "too many tensors:", n);
  for (int i = 0; i < n; i++) {
    const size_t bytes = (size_t)number(argv, argc, at);
    into[i] = map_region(bytes, (size_t)number(argv, argc, at));
  }
  return n;
}

int main(int argc, char **argv) {
  static region inputs[MOST], outputs[MOST];
  void *in[MOST], *out[MOST];
  int at = 3;
  const long first = (long)number(argv, argc, &at);
  const long runs = (long)number(argv, argc, &at);
  exec_t exec = {0, 0, 0, 0, (int32_t)number(argv, argc, &at)};
  if (number(argv, argc, &at)) exec.parallel_for = reversed;
  const int camera = (int)number(argv, argc, &at);
  region arena = map_region((size_t)number(argv, argc, &at), 64);
  const int n_in = read_regions(argv, argc, &at, inputs);
  int n_out = read_regions(argv, argc, &at, outputs);
  if (camera == 2) { /* what is made is an input */
    outputs[0] = inputs[0];
    n_out = 1;
  }
  FILE *source = fopen(argv[1], "rb");
  FILE *sink = fopen(argv[2], "wb");
  if (source == 0 || sink == 0) stop(4, "cannot open the files", 0);
  (void)fprintf(stderr, "best path %d\n", (int)BEST_PATH());
  for (long run = first; run < first + runs; run++) {
    prepare(&arena, run);
    for (int i = 0; i < (camera ? 0 : n_in); i++) {
      prepare(&inputs[i], run);
      if (fread(inputs[i].data, 1, inputs[i].bytes, source) != inputs[i].bytes) stop(4, "short input", i);
      protect(&inputs[i], PROT_READ);
      in[i] = inputs[i].data;
    }
    for (int i = 0; i < n_out; i++) {
      prepare(&outputs[i], run);
      out[i] = outputs[i].data;
    }
    const exec_t *how = exec.path || exec.parallel_for ? &exec : 0;
#ifdef RUN_CAMERA
    const int status = camera ? run_frame(source, run, camera == 2, out, arena.data, how) : RUN(in, out, arena.data, how);
#else
    const int status = RUN(in, out, arena.data, how);
#endif
    if (status != 0) stop(3, "run returned", status);
    check_around(&arena, run, "wrote outside: arena at byte");
    for (int i = 0; i < n_out; i++) {
      check_around(&outputs[i], run, "wrote outside: output at byte");
      if (fwrite(outputs[i].data, 1, outputs[i].bytes, sink) != outputs[i].bytes) stop(4, "cannot write", i);
    }
  }
  (void)fclose(source);
  if (fclose(sink) != 0) stop(4, "cannot write", 0);
  return 0;
}
