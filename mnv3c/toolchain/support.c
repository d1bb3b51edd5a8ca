/* What a generated library takes from the C library, for objects that are linked without one.
 * The empty asm statements keep compilers from turning a loop into a call of the very function it is in. */
#include <stddef.h>
#include <stdint.h>

unsigned long mnv3c_support_hwcap[2] = {0, 0};

unsigned long getauxval(unsigned long type) {
  return type == 16 ? mnv3c_support_hwcap[0] : type == 26 ? mnv3c_support_hwcap[1] : 0;
}

typedef uint64_t __attribute__((may_alias, aligned(1))) word;

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
  unsigned char *t = to;
  const unsigned char *f = from;
  for (; bytes >= 16; bytes -= 16, t += 16, f += 16) {
    ((word *)t)[0] = ((const word *)f)[0];
    ((word *)t)[1] = ((const word *)f)[1];
    __asm__ volatile("" ::: "memory");
  }
  for (; bytes != 0; bytes--) {
    *t++ = *f++;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  unsigned char *t = to;
  const uint64_t eight = (uint64_t)(unsigned char)value * UINT64_C(0x0101010101010101);
  for (; bytes >= 16; bytes -= 16, t += 16) {
    ((word *)t)[0] = eight;
    ((word *)t)[1] = eight;
    __asm__ volatile("" ::: "memory");
  }
  for (; bytes != 0; bytes--) {
    *t++ = (unsigned char)value;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

/* A parallel_for of one thread that runs the shares last to first: results must not depend on it. */
void mnv3c_support_parallel_for(void *ctx, int32_t n, void (*fn)(void *arg, int32_t i), void *arg) {
  (void)ctx;
  while (n > 0) {
    n--;
    fn(arg, n);
  }
}
