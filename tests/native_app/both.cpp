// The headers from C++17, both in one file; and the errors that the interface promises.
#include <cstdint>

#include "plain_net.h"
#include "small_net.h"

extern "C" int cpp_part() {
  alignas(64) static unsigned char memory[128];
  small_net_inputs inputs{};
  small_net_outputs outputs{};
  const bool null_is_refused = small_net_run(&inputs, &outputs, memory, nullptr) == SMALL_NET_ERROR_NULL &&
                               plain_net_run(nullptr, nullptr, nullptr, nullptr) == PLAIN_NET_ERROR_NULL;
  std::int8_t in = 0;
  std::int16_t out = 0;
  inputs.input = &in;
  outputs.output = &out;
  const bool misaligned_is_refused =
      small_net_run(&inputs, &outputs, memory + 1, nullptr) == SMALL_NET_ERROR_MISALIGNED;
  return null_is_refused && misaligned_is_refused ? 0 : 3;
}
