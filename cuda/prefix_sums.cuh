// Prefix sums of integers on the device.
#pragma once

#include "context.hpp"

namespace rk::cuda {

// values[i] <- values[0] + ... + values[i - 1] for i <= count; values[count] need not be set before.
void prefix_sums(const Context& context, std::int64_t* values, long count);

}  // namespace rk::cuda
