/* Runs and times the candidates of one batch on the device; the batch's table is in batch.c.j2.
 *
 * Each candidate runs in a child process: a crash or an endless loop costs that candidate alone, and the
 * RPC session goes on. The parent waits, kills what takes too long, and says how the child ended.
 *
 * With MNV3C_FREESTANDING (64-bit Arm Linux, Android among it) nothing is taken from a C library: the object
 * loads into a process of glibc, musl or bionic alike. Else POSIX supplies what is needed.
 *
 * TVM calls `__tvm_ffi_mnv3c_measure` by its C convention for packed functions ("tvm/ffi/c_api.h"); the few
 * declarations that this takes are below. Only numbers and DLTensors cross, so nothing of TVM's is linked.
 */
#include "batch.h"

#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))
enum { PAGE = 1 << 16, MAX_TENSORS = 16, JUNK = 0xA5 }; /* the largest page of the architecture */
enum { SIGNAL_KILL = 9, NO_DETAIL = 0 };

/* What mnv3c_measure returns; mnv3c/tuning/devices/bundle.py has the same numbers. */
enum {
  DONE = 0,
  CRASHED = 1,  /* REPORT_DETAIL: the signal */
  TIMEOUT = 2,
  REFUSED = 3,  /* REPORT_DETAIL: what the candidate's run returned */
  NO_PROCESS = 4, /* no memory, or no child process */
  BAD_CALL = 5
};

/* double report[]: what the device saw. Times are seconds a run. */
enum {
  REPORT_RUNS = 0,         /* runs in a sample */
  REPORT_CLOCK_BEFORE = 1, /* cycles a second of the core, before and after the samples */
  REPORT_CLOCK_AFTER = 2,
  REPORT_CPU = 3, /* number of the core, -1 where the system does not say */
  REPORT_DETAIL = 4,
  REPORT_SAMPLES = 5, /* how many follow, from REPORT_FIRST on */
  REPORT_FIRST = 8
};

/* int64_t settings[]; times in nanoseconds. A candidate's time-out counts what its process computes, so that a
 * busy device ends none that is fast; where the system does not tell, or nothing runs at all, WALL times as long
 * by the clock. */
enum { WALL = 5 };
enum { SET_REPEATS = 0, SET_SAMPLE = 1, SET_TIMEOUT = 2, SET_COOL_DOWN = 3, SET_CPUS = 4, SETTINGS = 5 };

typedef struct {
  volatile int32_t finished; /* the child reached its end */
  volatile int32_t returned; /* by the candidate's first failing run */
  double report[REPORT_FIRST];
} shared_state;

/* ---- the system ------------------------------------------------------------------------------- */

#ifdef MNV3C_FREESTANDING

typedef struct {
  int64_t seconds, nanoseconds;
} time_spec;

static long call_system(long number, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
  return x0;
}

/* Numbers of arm64 Linux, include/uapi/asm-generic/unistd.h. */
static int64_t now(void) {
  time_spec t = {0, 0};
  (void)call_system(113 /* clock_gettime */, 1 /* CLOCK_MONOTONIC */, (long)&t, 0, 0, 0, 0);
  return t.seconds * 1000000000 + t.nanoseconds;
}

static void pause_for(int64_t nanoseconds) {
  time_spec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  (void)call_system(101 /* nanosleep */, (long)&t, 0, 0, 0, 0, 0);
}

static void *map_memory(size_t bytes) {
  const long p = call_system(222 /* mmap */, 0, (long)bytes, 3 /* read, write */, 0x21 /* shared, anonymous */, -1, 0);
  return p < 0 && p > -4096 ? NULL : (void *)p;
}

static void unmap_memory(void *p, size_t bytes) {
  (void)call_system(215, (long)p, (long)bytes, 0, 0, 0, 0);
}

static void forbid(void *p, size_t bytes) {
  (void)call_system(226 /* mprotect */, (long)p, (long)bytes, 0, 0, 0, 0);
}

static int start_child(void) { return (int)call_system(220 /* clone */, 17 /* SIGCHLD */, 0, 0, 0, 0, 0); }

/* 0 while the child runs, its process number once it has ended. */
static int child_ended(int child, int *status) {
  long got;
  do {
    got = call_system(260 /* wait4 */, child, (long)status, 1 /* WNOHANG */, 0, 0, 0);
  } while (got == -4 /* EINTR */);
  return (int)got;
}

static void reap(int child, int *status) {
  while (call_system(260, child, (long)status, 0, 0, 0, 0) == -4) {
  }
}

/* Nanoseconds that a child has computed; -1 where the system does not say. */
static int64_t computed(int child) {
  time_spec t = {0, 0};
  /* MAKE_PROCESS_CPUCLOCK of include/linux/posix-timers_types.h, CPUCLOCK_SCHED */
  const long clock = (long)(~(unsigned)child << 3 | 2u);
  return call_system(113 /* clock_gettime */, clock, (long)&t, 0, 0, 0, 0) == 0
             ? t.seconds * 1000000000 + t.nanoseconds
             : -1;
}

static void kill_child(int child) { (void)call_system(129, child, SIGNAL_KILL, 0, 0, 0, 0); }

static _Noreturn void leave(int code) {
  for (;;) {
    (void)call_system(94 /* exit_group */, code, 0, 0, 0, 0, 0);
  }
}

static void prepare_child(int64_t cpus) {
  static const int fatal[] = {4, 5, 6, 7, 8, 11}; /* ILL, TRAP, ABRT, BUS, FPE, SEGV */
  static const unsigned long defaults[4] = {0, 0, 0, 0};
  static const unsigned long no_core[2] = {0, 0};
  (void)call_system(167 /* prctl */, 1 /* PR_SET_PDEATHSIG */, SIGNAL_KILL, 0, 0, 0, 0);
  (void)call_system(164 /* setrlimit */, 4 /* RLIMIT_CORE */, (long)no_core, 0, 0, 0, 0);
  for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; ++i) {
    (void)call_system(134 /* rt_sigaction */, fatal[i], (long)defaults, 0, 8, 0, 0);
  }
  if (cpus != 0) {
    (void)call_system(122 /* sched_setaffinity */, 0, sizeof cpus, (long)&cpus, 0, 0, 0);
  }
}

static long read_file(const char *path, char *to, long room) {
  const long file = call_system(56 /* openat */, -100 /* AT_FDCWD */, (long)path, 0, 0, 0, 0);
  return file < 0 ? 0 : call_system(63 /* read */, file, (long)to, room, 0, 0, 0);
}

static double core_number(void) {
  unsigned cpu = 0;
  return call_system(168 /* getcpu */, (long)&cpu, 0, 0, 0, 0, 0) == 0 ? (double)cpu : -1.0;
}

#else

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#endif

static int64_t now(void) {
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_for(int64_t nanoseconds) {
  const struct timespec t = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
  (void)nanosleep(&t, NULL);
}

static void *map_memory(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static void unmap_memory(void *p, size_t bytes) { (void)munmap(p, bytes); }
static void forbid(void *p, size_t bytes) { (void)mprotect(p, bytes, PROT_NONE); }
static int start_child(void) { return (int)fork(); }
static int child_ended(int child, int *status) { return (int)waitpid(child, status, WNOHANG); }
static void reap(int child, int *status) { (void)waitpid(child, status, 0); }
static int64_t computed(int child) {
#ifdef __linux__
  struct timespec t;
  clockid_t clock;
  if (clock_getcpuclockid(child, &clock) == 0 && clock_gettime(clock, &t) == 0) {
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
  }
#endif
  (void)child;
  return -1;
}
static void kill_child(int child) { (void)kill(child, SIGKILL); }
static _Noreturn void leave(int code) { _exit(code); }

static void prepare_child(int64_t cpus) {
  static const int fatal[] = {SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV};
  for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; ++i) {
    (void)signal(fatal[i], SIG_DFL);
  }
#ifdef __linux__
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (cpus != 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < 63; ++i) {
      if ((cpus >> i & 1) != 0) {
        CPU_SET((size_t)i, &set);
      }
    }
    (void)sched_setaffinity(0, sizeof set, &set);
  }
#else
  (void)cpus;
#endif
}

#if defined(__aarch64__) && defined(__linux__)
static long read_file(const char *path, char *to, long room) {
  const int file = open(path, O_RDONLY);
  return file < 0 ? 0 : (long)read(file, to, (size_t)room);
}
#endif

static double core_number(void) {
#ifdef __linux__
  return (double)sched_getcpu();
#else
  return -1.0;
#endif
}

#endif

/* ---- measuring -------------------------------------------------------------------------------- */

/* The core's clock, from a chain of additions each of which waits for the one before: one a cycle on every
 * core. It tells throttling from a slow candidate. */
static double clock_rate(void) {
  enum { CHAIN = 16, TURNS = 20000, TRIES = 3 };
  int64_t best = INT64_MAX;
  for (int t = 0; t < TRIES; ++t) {
    uint64_t turns = TURNS, sum = 0;
    const int64_t begin = now();
#if defined(__aarch64__)
    __asm__ volatile(
        "1:\n"
        "add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n"
        "add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n"
        "add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n"
        "add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n add %1, %1, #1\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(turns), "+r"(sum)
        :
        : "cc");
#else
    for (; turns != 0; --turns) {
      for (int i = 0; i < CHAIN; ++i) {
        sum += turns;
        __asm__ volatile("" : "+r"(sum));
      }
    }
#endif
    const int64_t took = now() - begin;
    best = took < best ? took : best;
  }
  return best > 0 ? (double)(CHAIN * TURNS) * 1e9 / (double)best : 0.0;
}

static size_t pages(int64_t bytes) { return ((size_t)bytes + PAGE - 1) / PAGE * PAGE; }

static void copy(uint8_t *to, const uint8_t *from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) {
    to[i] = from[i];
    __asm__ volatile("" ::: "memory"); /* stays a loop: there may be no memcpy */
  }
}

static void fill(uint8_t *to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) {
    to[i] = JUNK;
    __asm__ volatile("" ::: "memory");
  }
}

/* Ticks for the layers that count: reading the clock must cost next to nothing there. */
#if defined(__aarch64__) && defined(__linux__)
static int64_t ticks(void) {
  uint64_t t;
  __asm__ volatile("isb\n mrs %0, cntvct_el0" : "=r"(t)::"memory");
  return (int64_t)t;
}
static double tick_seconds(void) {
  uint64_t rate;
  __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(rate));
  return 1.0 / (double)rate;
}
#else
static int64_t ticks(void) { return now(); }
static double tick_seconds(void) { return 1e-9; }
#endif

typedef struct {
  const int32_t *layers;
  int64_t begin, sum;
} stopwatch;

static void on_layer(void *ctx, int32_t layer, int32_t begin) {
  stopwatch *const w = ctx;
  for (const int32_t *l = w->layers; *l >= 0; ++l) {
    if (*l == layer) {
      if (begin != 0) {
        w->begin = ticks();
      } else {
        w->sum += ticks() - w->begin;
      }
      return;
    }
  }
}

/* Seconds of `runs` runs: of the layers that count, else of all. */
static double run_many(const mnv3c_candidate *c, void *const *inputs, void *const *outputs, void *arena, int64_t runs) {
  stopwatch watch = {c->layers, 0, 0};
  const int whole = c->layers[0] < 0;
  const mnv3c_exec exec = {NULL, NULL, whole ? NULL : on_layer, &watch, c->path};
  const int64_t begin = now();
  for (int64_t i = 0; i < runs; ++i) {
    (void)c->run(inputs, outputs, arena, &exec);
  }
  return whole ? (double)(now() - begin) * 1e-9 : (double)watch.sum * tick_seconds();
}

/* The child: one run whose outputs are kept, then samples. */
static _Noreturn void work(const mnv3c_candidate *c, void *const *inputs, void *const *outputs, void *arena,
                           shared_state *state, double *samples, const int64_t *settings) {
  const mnv3c_exec plain = {NULL, NULL, NULL, NULL, c->path};
  int64_t runs = 1, took;
  prepare_child(settings[SET_CPUS]);
  state->returned = c->run(inputs, outputs, arena, &plain);
  if (state->returned != 0) {
    leave(0);
  }
  for (;;) { /* as many runs a sample as the clock needs to be exact */
    const int64_t begin = now();
    (void)run_many(c, inputs, outputs, arena, runs);
    took = now() - begin;
    if (took >= settings[SET_SAMPLE] || runs >= (int64_t)1 << 30) {
      break;
    }
    runs = took < settings[SET_SAMPLE] / 16 ? runs * 8 : runs * settings[SET_SAMPLE] / took + 1;
  }
  state->report[REPORT_CLOCK_BEFORE] = clock_rate();
  for (int64_t r = 0; r < settings[SET_REPEATS]; ++r) {
    samples[r] = run_many(c, inputs, outputs, arena, runs) / (double)runs;
  }
  state->report[REPORT_CLOCK_AFTER] = clock_rate();
  state->report[REPORT_RUNS] = (double)runs;
  state->report[REPORT_CPU] = core_number();
  state->report[REPORT_SAMPLES] = (double)settings[SET_REPEATS];
  state->finished = 1;
  leave(0);
}

static int wait_for(int child, const shared_state *state, double *report, int64_t timeout) {
  const int64_t deadline = now() + WALL * timeout;
  int status = 0;
  for (;;) {
    const int ended = child_ended(child, &status);
    if (ended != 0) {
      break;
    }
    if (now() > deadline || computed(child) > timeout) {
      kill_child(child);
      reap(child, &status);
      return TIMEOUT;
    }
    pause_for(2000000); /* often enough, and seldom enough to leave the core to the child */
  }
  if ((status & 0x7f) != 0) {
    report[REPORT_DETAIL] = (double)(status & 0x7f);
    return CRASHED;
  }
  if (state->returned != 0) {
    report[REPORT_DETAIL] = (double)state->returned;
    return REFUSED;
  }
  if (state->finished == 0) { /* it called exit, or an emulator made a signal into an exit code */
    report[REPORT_DETAIL] = (double)((status >> 8 & 0xff) > 128 ? (status >> 8 & 0xff) - 128 : 0);
    return CRASHED;
  }
  return DONE;
}

/* Measures a candidate.
 *
 *   input   all inputs one behind the other, each padded to 64 bytes; output likewise
 *   report  REPORT_FIRST numbers and room for settings[SET_REPEATS] samples
 */
EXPORT int mnv3c_measure(int64_t index, const uint8_t *input, uint8_t *output, double *report,
                         const int64_t *settings) {
  const mnv3c_candidate *c;
  void *inputs[MAX_TENSORS], *outputs[MAX_TENSORS];
  size_t total = pages((int64_t)sizeof(shared_state)) + pages(settings[SET_REPEATS] * 8), at;
  uint8_t *memory, *arena;
  shared_state *state;
  double *samples;
  int child, result;
  if (index < 0 || index >= mnv3c_candidate_count) {
    return BAD_CALL;
  }
  c = &mnv3c_candidates[index];
  if (c->inputs > MAX_TENSORS || c->outputs > MAX_TENSORS) {
    return BAD_CALL;
  }
  for (int32_t i = 0; i < c->inputs + c->outputs; ++i) {
    total += pages(c->bytes[i]) + PAGE;
  }
  total += pages(c->arena_bytes) + PAGE;
  memory = map_memory(total);
  if (memory == NULL) {
    return NO_PROCESS;
  }
  state = (shared_state *)(void *)memory;
  samples = (double *)(void *)(memory + pages((int64_t)sizeof(shared_state)));
  at = pages((int64_t)sizeof(shared_state)) + pages(settings[SET_REPEATS] * 8);
  for (int32_t i = 0; i < c->inputs + c->outputs; ++i) {
    /* Behind each buffer: a page that nobody may touch. */
    if (i < c->inputs) {
      inputs[i] = memory + at;
      copy(memory + at, input, c->bytes[i]);
      input += (c->bytes[i] + 63) / 64 * 64;
    } else {
      outputs[i - c->inputs] = memory + at;
      fill(memory + at, c->bytes[i]);
    }
    at += pages(c->bytes[i]);
    forbid(memory + at, PAGE);
    at += PAGE;
  }
  arena = memory + at;
  fill(arena, c->arena_bytes);
  forbid(arena + pages(c->arena_bytes), PAGE);

  if (settings[SET_COOL_DOWN] > 0) {
    pause_for(settings[SET_COOL_DOWN]);
  }
  child = start_child();
  if (child == 0) {
    work(c, inputs, outputs, arena, state, samples, settings);
  }
  if (child < 0) {
    unmap_memory(memory, total);
    return NO_PROCESS;
  }
  result = wait_for(child, state, report, settings[SET_TIMEOUT]);
  if (result == DONE) {
    const double detail = report[REPORT_DETAIL];
    for (int i = 0; i < REPORT_FIRST; ++i) {
      report[i] = state->report[i];
    }
    report[REPORT_DETAIL] = detail;
    for (int64_t r = 0; r < settings[SET_REPEATS]; ++r) {
      report[REPORT_FIRST + r] = samples[r];
    }
    for (int32_t i = 0; i < c->outputs; ++i) {
      copy(output, outputs[i], c->bytes[c->inputs + i]);
      output += (c->bytes[c->inputs + i] + 63) / 64 * 64;
    }
  }
  unmap_memory(memory, total);
  return result;
}

#if defined(__aarch64__) && defined(__linux__)
/* Whether an emulator of programs runs this: it passes the cpuinfo of an x86 machine through, or has qemu's
 * counter of 62.5 MHz, a rate that no Arm system has. */
static int is_emulated(void) {
  static const char word[] = "vendor_id";
  char text[512];
  uint64_t rate;
  const long length = read_file("/proc/cpuinfo", text, (long)sizeof text);
  __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(rate));
  for (long i = 0; i + (long)sizeof word <= length; ++i) {
    long k = 0;
    while (k < (long)sizeof word - 1 && text[i + k] == word[k]) {
      ++k;
    }
    if (k == (long)sizeof word - 1) {
      return 1;
    }
  }
  return rate == 62500000;
}
#endif

/* What the core says of itself (MIDR_EL1), with bit 32 set where it is emulated; 0 where it is not to be had. A
 * system may forbid the question: a child asks. */
EXPORT int64_t mnv3c_identify(int64_t cpus) {
  int64_t *const answer = map_memory(PAGE);
  int64_t found = 0;
  int child, status = 0;
  if (answer == NULL) {
    return 0;
  }
  child = start_child();
  if (child == 0) {
    prepare_child(cpus);
#if defined(__aarch64__) && defined(__linux__)
    uint64_t midr;
    answer[0] = (int64_t)is_emulated() << 32;
    __asm__ volatile("mrs %0, midr_el1" : "=r"(midr));
    answer[0] |= (int64_t)(midr & 0xffffffff);
#endif
    leave(0);
  }
  if (child > 0) {
    reap(child, &status);
    found = answer[0];
  }
  unmap_memory(answer, PAGE);
  return found;
}

/* ---- TVM's convention for packed functions ----------------------------------------------------- */

typedef struct {
  int32_t type, padding;
  union {
    int64_t integer;
    void *pointer;
  } value;
} tvm_any;

typedef struct {
  void *data;
  int32_t device_type, device_index;
  int32_t dimensions;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} tvm_tensor;

enum { TVM_INT = 1, TVM_TENSOR_POINTER = 7, TVM_TENSOR = 70, TVM_OBJECT_HEADER = 24 };

static uint8_t *tensor_data(const tvm_any *a) {
  const tvm_tensor *t = NULL;
  if (a->type == TVM_TENSOR_POINTER) {
    t = a->value.pointer;
  } else if (a->type == TVM_TENSOR) {
    t = (const tvm_tensor *)(const void *)((const uint8_t *)a->value.pointer + TVM_OBJECT_HEADER);
  }
  return t == NULL ? NULL : (uint8_t *)t->data + t->byte_offset;
}

/* mnv3c_measure(index, input, output, report, settings) -> what the function of that name returns. */
EXPORT int __tvm_ffi_mnv3c_measure(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  int64_t status = BAD_CALL;
  (void)self;
  if (count == 5 && arguments[0].type == TVM_INT) {
    uint8_t *p[4];
    for (int i = 0; i < 4; ++i) {
      p[i] = tensor_data(&arguments[i + 1]);
    }
    if (p[0] != NULL && p[1] != NULL && p[2] != NULL && p[3] != NULL) {
      status = mnv3c_measure(arguments[0].value.integer, p[0], p[1], (double *)(void *)p[2],
                             (const int64_t *)(const void *)p[3]);
    }
  }
  result->type = TVM_INT;
  result->padding = 0;
  result->value.integer = status;
  return 0;
}

/* mnv3c_identify(cpus) */
EXPORT int __tvm_ffi_mnv3c_identify(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  (void)self;
  result->type = TVM_INT;
  result->padding = 0;
  result->value.integer = count == 1 && arguments[0].type == TVM_INT ? mnv3c_identify(arguments[0].value.integer) : 0;
  return 0;
}
