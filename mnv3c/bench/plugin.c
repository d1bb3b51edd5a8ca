/* A plugin for qemu-aarch64 that counts executed blocks and simulates the data caches, by segments.
 *
 *   qemu-aarch64 -plugin THIS.so,out=FILE,cache=0|1,l1=BYTES,l1ways=N,l2=BYTES,l2ways=N PROGRAM
 *
 * The program marks the end of a segment with the system call MARKER (x0 and x1: two numbers that name
 * the segment which begins). Each segment that a marker or the end of the program closes becomes, in FILE:
 *
 *   M <x0> <x1>                       the marker that began it
 *   B <address> <instructions> <n>    a translated block that was entered n times; address in hex
 *   C <loads> <stores> <bytes loaded> <bytes stored> <L1 fills> <L2 fills>      with cache=1
 *
 * What precedes the first marker is not written. Caches: lines of 64 bytes, least recently used, a write
 * allocates, no prefetch; the L2 sees what misses in the L1. qemu's header is not needed: the few
 * functions used are declared here as its documentation ("QEMU TCG Plugins") gives them.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif
#define EXPORT __attribute__((visibility("default")))
enum { MARKER = 9001, LINE_SHIFT = 6, BUCKETS = 1 << 16, CALLBACK_NO_REGISTERS = 0, MEMORY_READ_WRITE = 3 };

typedef uint64_t plugin_id;
typedef uint32_t memory_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                             void (*)(unsigned, memory_info, uint64_t, void *), int, int, void *);
extern unsigned qemu_plugin_mem_size_shift(memory_info);
extern _Bool qemu_plugin_mem_is_store(memory_info);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                                 void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

EXPORT int qemu_plugin_version = PLUGIN_API;

/* A translated block. `entered` counts within the current segment. */
struct block {
  uint64_t address, instructions, entered;
  struct block *next_in_bucket, *next_entered;
};
static struct block *buckets[BUCKETS];
static struct block *entered_blocks;

struct cache {
  uint64_t *line, *last_use, sets, ways, fills;
};
static struct cache l1, l2;
static uint64_t uses;

static struct {
  uint64_t loads, stores, bytes_loaded, bytes_stored;
} traffic;

static FILE *output;
static int with_cache, recording;
static uint64_t segment[2];

static void *allocate(size_t bytes) {
  void *p = calloc(1, bytes);
  if (p == 0) {
    perror("counting plugin");
    exit(1);
  }
  return p;
}

static int cache_touch(struct cache *c, uint64_t line) {
  const uint64_t first = line % c->sets * c->ways;
  uint64_t oldest = first;
  for (uint64_t i = first; i < first + c->ways; ++i) {
    if (c->line[i] == line) {
      c->last_use[i] = ++uses;
      return 1;
    }
    if (c->last_use[i] < c->last_use[oldest]) {
      oldest = i;
    }
  }
  c->line[oldest] = line;
  c->last_use[oldest] = ++uses;
  c->fills++;
  return 0;
}

static void on_memory(unsigned cpu, memory_info info, uint64_t address, void *unused) {
  const uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
  (void)cpu;
  (void)unused;
  if (qemu_plugin_mem_is_store(info)) {
    traffic.stores++;
    traffic.bytes_stored += bytes;
  } else {
    traffic.loads++;
    traffic.bytes_loaded += bytes;
  }
  for (uint64_t line = address >> LINE_SHIFT; line <= (address + bytes - 1) >> LINE_SHIFT; ++line) {
    if (!cache_touch(&l1, line)) {
      (void)cache_touch(&l2, line);
    }
  }
}

static void on_block(unsigned cpu, void *data) {
  struct block *b = data;
  (void)cpu;
  if (b->entered++ == 0) {
    b->next_entered = entered_blocks;
    entered_blocks = b;
  }
}

static struct block *find_block(uint64_t address, uint64_t instructions) {
  struct block **bucket = &buckets[(address >> 2) % BUCKETS], *b;
  for (b = *bucket; b != 0; b = b->next_in_bucket) {
    if (b->address == address && b->instructions == instructions) {
      return b;
    }
  }
  b = allocate(sizeof *b);
  b->address = address;
  b->instructions = instructions;
  b->next_in_bucket = *bucket;
  *bucket = b;
  return b;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb) {
  const size_t n = qemu_plugin_tb_n_insns(tb);
  (void)id;
  /* qemu may translate a block again: the same one must go on counting. */
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CALLBACK_NO_REGISTERS, find_block(qemu_plugin_tb_vaddr(tb), n));
  for (size_t i = 0; with_cache && i < n; ++i) {
    qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_memory, CALLBACK_NO_REGISTERS,
                                     MEMORY_READ_WRITE, 0);
  }
}

/* Writes the current segment, unless it is the one before the first marker, and empties all counters. */
static void close_segment(void) {
  if (recording) {
    fprintf(output, "M %" PRIu64 " %" PRIu64 "\n", segment[0], segment[1]);
  }
  for (struct block *b = entered_blocks; b != 0; b = b->next_entered) {
    if (recording) {
      fprintf(output, "B %" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address, b->instructions, b->entered);
    }
    b->entered = 0;
  }
  entered_blocks = 0;
  if (recording && with_cache) {
    fprintf(output, "C %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", traffic.loads,
            traffic.stores, traffic.bytes_loaded, traffic.bytes_stored, l1.fills, l2.fills);
  }
  fflush(output); /* a program that crashes leaves what it had done until then */
  memset(&traffic, 0, sizeof traffic);
  l1.fills = 0;
  l2.fills = 0;
}

static void on_system_call(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                           uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == MARKER) {
    close_segment();
    recording = 1;
    segment[0] = a;
    segment[1] = b;
  }
}

static void on_exit_of_program(plugin_id id, void *unused) {
  (void)id;
  (void)unused;
  close_segment();
  fclose(output);
}

static void make_cache(struct cache *c, uint64_t bytes, uint64_t ways) {
  c->ways = ways;
  c->sets = (bytes >> LINE_SHIFT) / ways;
  c->line = allocate(c->sets * ways * sizeof *c->line);
  c->last_use = allocate(c->sets * ways * sizeof *c->last_use);
  memset(c->line, 0xff, c->sets * ways * sizeof *c->line); /* no line has this number */
}

EXPORT int qemu_plugin_install(plugin_id id, const void *qemu, int argc, char **argv) {
  uint64_t l1_bytes = 32768, l1_ways = 4, l2_bytes = 262144, l2_ways = 8;
  (void)qemu;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "out=", 4) == 0) {
      output = fopen(argv[i] + 4, "w");
    }
    (void)sscanf(argv[i], "cache=%d", &with_cache);
    (void)sscanf(argv[i], "l1=%" SCNu64, &l1_bytes);
    (void)sscanf(argv[i], "l1ways=%" SCNu64, &l1_ways);
    (void)sscanf(argv[i], "l2=%" SCNu64, &l2_bytes);
    (void)sscanf(argv[i], "l2ways=%" SCNu64, &l2_ways);
  }
  if (output == 0) {
    fprintf(stderr, "counting plugin: out=FILE is missing or cannot be written\n");
    return 1;
  }
  make_cache(&l1, l1_bytes, l1_ways);
  make_cache(&l2, l2_bytes, l2_ways);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
  qemu_plugin_register_atexit_cb(id, on_exit_of_program, 0);
  return 0;
}
