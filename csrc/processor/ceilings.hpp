// What this machine can do at best: the figures that benchmarks are judged by.
#pragma once

#include <optional>
#include <string>

namespace rk {

// Best rate seen in at least `seconds` on this many threads, in operations or bytes a second:
//   fma_float32, fma_float64   multiply-adds of the instruction set in use, two operations each
//   bf16_dot                   sums of products of bfloat16 (AVX512_BF16)
//   read, write, stream        bytes to or from a buffer of this size; stream: stores past the cache
// Nothing where the processor or the instruction set in use lacks it. Throws std::invalid_argument where
// the name is unknown, std::bad_alloc where the buffer does not fit.
std::optional<double> measure_ceiling(const std::string& name, int threads, long bytes, double seconds);

}  // namespace rk
