/* native_app SMALL.bin PLAIN.bin: runs two networks on raw inputs, interleaved, and prints their outputs. */
#include <stdio.h>
#include <string.h>

#include "plain_net.h"
#include "small_net.h"

#ifdef NATIVE_APP_CXX
int cpp_part(void);
#else
static int cpp_part(void) {
  return 0;
}
#endif

static _Alignas(SMALL_NET_ARENA_ALIGN) uint8_t small_arena[SMALL_NET_ARENA_BYTES];
static _Alignas(PLAIN_NET_ARENA_ALIGN) uint8_t plain_arena[PLAIN_NET_ARENA_BYTES];
static int8_t small_input[SMALL_NET_INPUT_ELEMENTS];
static uint8_t plain_input[PLAIN_NET_INPUT_ELEMENTS];
static int16_t small_output[SMALL_NET_OUTPUT_ELEMENTS];
static int16_t plain_output[PLAIN_NET_OUTPUT_ELEMENTS];

static int load(const char *name, void *to, size_t bytes) {
  FILE *file = fopen(name, "rb");
  size_t got;
  if (file == NULL) return 0;
  got = fread(to, 1, bytes, file);
  (void)fclose(file);
  return got == bytes;
}

static void print(const char *name, const int16_t *values, int n) {
  (void)printf("%s", name);
  for (int i = 0; i < n; i++) (void)printf(" %d", values[i]);
  (void)printf("\n");
}

int main(int argc, char **argv) {
  const small_net_inputs small_in = {small_input};
  const plain_net_inputs plain_in = {plain_input};
  const small_net_outputs small_out = {small_output};
  const plain_net_outputs plain_out = {plain_output};
  if (argc != 3 || !load(argv[1], small_input, sizeof small_input) ||
      !load(argv[2], plain_input, sizeof plain_input)) {
    (void)fprintf(stderr, "usage: native_app SMALL.bin PLAIN.bin\n");
    return 2;
  }
  for (int i = 0; i < 2; i++) {
    memset(small_arena, i, sizeof small_arena); /* what an arena holds before a run must not matter */
    memset(plain_arena, ~i, sizeof plain_arena);
    if (small_net_run(&small_in, &small_out, small_arena, NULL) != SMALL_NET_OK) return 1;
    if (plain_net_run(&plain_in, &plain_out, plain_arena, NULL) != PLAIN_NET_OK) return 1;
    print("small_net", small_output, SMALL_NET_OUTPUT_ELEMENTS);
    print("plain_net", plain_output, PLAIN_NET_OUTPUT_ELEMENTS);
  }
  return cpp_part();
}
