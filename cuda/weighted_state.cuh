// The states of a consumer of weighted values (weighted.cuh), and how they are merged.
//
// State of a row: max and sum (softmax) or the further sums, and the weighted sum of the values. States are
// merged by merge_shares and combine: those of chunks within a block (merge) and those of blocks that share
// rows (merge_parts), from left to right, so that the bits do not depend on which of the two happens.
//
// A row with a score of +inf has max = +inf, weights of NaN, and a log-sum-exp of +inf unless it also has a
// NaN: its sum is +inf, or NaN.
#pragma once

#include "factors.cuh"

namespace rk::cuda {

// The factor of a sum whose maximum was `max` when it is rescaled to `top`, a maximum that is no less.
template <class Sum>
RK_DEVICE Sum rescaling(Sum max, Sum top) {
    if (max == Sum(kInfinity)) return Sum(1);
    return exp(max - (top == Sum(-kInfinity) ? Sum(0) : top));
}

// The factors of two sums when both are rescaled to their common maximum.
template <class Sum>
struct Shares {
    Sum max, first, second;
};
template <class Sum>
RK_DEVICE Shares<Sum> merge_shares(Sum first, Sum second) {
    const Sum top = first > second ? first : second;
    return {top, rescaling(first, top), rescaling(second, top)};
}
template <class Sum>
RK_DEVICE Sum combine(const Shares<Sum>& s, Sum first, Sum second) {
    return first * s.first + second * s.second;
}

// Where results are written, and partial states until then: rows of `width` weighted sums, then two more
// numbers: max and sum, or the further sums.
template <class Sum>
struct WeightedOut {
    Strided out;
    int width;   // of the values
    Sum factor;  // of the results
    Sum* lse;    // (items, rows), contiguous; may be null
    Sum* state;  // null: all columns are one chunk
    long rows, items;
    int state_width;  // the weighted sums of a block of values and two more

    RK_HOST_DEVICE long slot(long part, long value_block, long value_blocks, long item, long row) const {
        return (((part * value_blocks + value_block) * items + item) * rows + row) * state_width;
    }
};

}  // namespace rk::cuda
