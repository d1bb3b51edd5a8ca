/* Random frames through a generated library, every plane as long as it has to be and not a byte longer, and
 * frames that there are not, which must be refused and change nothing. Built with sanitizers.
 * PLANES: their number; PIXEL: bytes of a pixel of the first; PAIRS: bytes of one of the others; YUV: 0 or 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

static uint64_t state = 88172645463325252U;

static int32_t below(int32_t n) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (int32_t)(state % (uint64_t)n);
}

static void stop(const char *what, long detail) {
  (void)fprintf(stderr, "%s %ld\n", what, detail);
  exit(1);
}

static int32_t side(void) {
  return below(4) ? 1 + below(70) : 1 + below(3);
}

static int32_t row_bytes(int32_t plane, int32_t width) {
  return plane == 0 ? PIXEL * width : PAIRS * ((width + 1) / 2);
}

static int32_t rows(int32_t plane, int32_t height) {
  return plane == 0 ? height : (height + 1) / 2;
}

static void fill(net_frame *frame) {
  memset(frame, 0, sizeof *frame);
  frame->width = side();
  frame->height = side();
  frame->rotation = 90 * below(4);
  frame->fit = below(3);
#if YUV
  frame->range = below(2);
#endif
  for (int32_t p = 0; p < PLANES; ++p) {
    const int32_t bytes = row_bytes(p, frame->width);
    frame->strides[p] = bytes + (below(2) ? 0 : below(8) ? below(40) : 100000 + below(100000));
    const size_t size = (size_t)frame->strides[p] * (size_t)(rows(p, frame->height) - 1) + (size_t)bytes;
    uint8_t *const plane = malloc(size);
    if (plane == 0) stop("no memory:", (long)size);
    memset(plane, below(256), size);
    frame->planes[p] = plane;
  }
}

static void release(net_frame *frame) {
  for (int32_t p = 0; p < PLANES; ++p) {
    free((void *)(uintptr_t)frame->planes[p]);
  }
}

/* One thing about a good frame that makes it bad; the status that it must give. */
static int spoil(net_frame *frame) {
  static const int32_t sides[] = {0, -1, INT32_MIN, 65536, INT32_MAX};
  static const int32_t angles[] = {1, 45, -90, 360, INT32_MAX, INT32_MIN};
  static const int32_t choices[] = {-1, 3, INT32_MAX, INT32_MIN};
  const int32_t p = below(PLANES);
  switch (below(YUV ? 8 : 7)) {
    case 0:
      frame->width = sides[below(5)];
      break;
    case 1:
      frame->height = sides[below(5)];
      break;
    case 2:
      frame->rotation = angles[below(6)];
      break;
    case 3:
      frame->fit = choices[below(4)];
      break;
    case 4:
      frame->strides[p] = row_bytes(p, frame->width) - 1 - (below(2) ? 0 : below(1000000));
      break;
    case 5: /* offsets beyond 32 bits */
      frame->height = 65535;
      frame->strides[p] = below(2) ? INT32_MAX : 65540 + below(1000);
      break;
    case 6:
      frame->planes[p] = 0;
      return NET_ERROR_NULL;
    default:
#if YUV
      frame->range = choices[below(4)] == 3 ? 2 : -1;
#endif
      break;
  }
  return NET_ERROR_FRAME;
}

int main(void) {
  const size_t image_bytes = NET_INPUT_BYTES;
  int8_t *const image = malloc(image_bytes);
  int8_t *const kept = malloc(image_bytes);
  net_outputs outputs;
  uint8_t *const arena = aligned_alloc(NET_ARENA_ALIGN, NET_ARENA_BYTES);
  int16_t *const result = malloc(NET_OUTPUT_BYTES);
  if (image == 0 || kept == 0 || arena == 0 || result == 0) stop("no memory", 0);
  outputs.output = result;
  memset(image, 1, image_bytes);
  for (long i = 0; i < ROUNDS; ++i) {
    net_frame frame;
    fill(&frame);
    memset(arena, below(256), NET_ARENA_BYTES);
    if (i % 4 == 3) {
      net_frame bad = frame;
      const int want = spoil(&bad);
      memcpy(kept, image, image_bytes);
      if (net_camera_image(&bad, image, arena) != want) stop("a bad frame was taken in round", i);
      if (net_run_camera(&bad, &outputs, arena, 0) != want) stop("a bad frame was run in round", i);
      if (memcmp(kept, image, image_bytes) != 0) stop("a bad frame changed the image in round", i);
    } else {
      if (net_camera_image(&frame, image, arena) != NET_OK) stop("a frame was refused in round", i);
      if (i % 64 == 0) {
        if (net_run_camera(&frame, &outputs, arena, 0) != NET_OK) stop("a run was refused in round", i);
      }
    }
    if (i == 0) {
      if (net_camera_image(0, image, arena) != NET_ERROR_NULL) stop("no frame", 0);
      if (net_camera_image(&frame, 0, arena) != NET_ERROR_NULL) stop("no image", 0);
      if (net_camera_image(&frame, image, arena + 1) != NET_ERROR_MISALIGNED) stop("arena", 1);
      if (net_run_camera(&frame, 0, arena, 0) != NET_ERROR_NULL) stop("no outputs", 0);
      if (net_run_camera(&frame, &outputs, arena + 16, 0) != NET_ERROR_MISALIGNED) stop("arena", 16);
    }
    release(&frame);
  }
  free(image);
  free(kept);
  free(arena);
  free(result);
  return 0;
}
