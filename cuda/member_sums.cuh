// Gradients of columns that items of a batch share: each item has its own, and the results are their sums.
#pragma once

#include "operations.hpp"

namespace rk::cuda {

// Where each item writes its part of `sum`, whose leading strides are 0 where items share it: to a contiguous
// array, or to `sum` itself if no items share it.
template <class Sum>
Array parts_of(const Context& context, const Array& sum);

// sum <- the sums of the parts, in the order of the items.
template <class Sum>
void add_parts(const Context& context, const Array& parts, const Array& sum);

}  // namespace rk::cuda
