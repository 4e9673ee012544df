// Masks of attention and retrieval: from arrays, over tiles, and seen from the columns.
#pragma once

#include <algorithm>

#include "base/arrays.hpp"
#include "kernels/table.hpp"
#include "walk/factors.hpp"

namespace rk {

inline Mask mask_of(const Array<const std::uint8_t>& mask, bool causal, long item) {
    Mask m;
    m.causal = causal ? Mask::lower : Mask::none;
    if (!mask.empty()) {
        m.data = mask.item(item, 2);
        m.row_stride = mask.step(2);
        m.col_stride = mask.step(1);
    }
    return m;
}

// The mask of the transposed relation.
inline Mask transposed(const Mask& mask) {
    Mask t = mask;
    std::swap(t.row_stride, t.col_stride);
    if (mask.causal != Mask::none) t.causal = mask.causal == Mask::lower ? Mask::upper : Mask::lower;
    return t;
}

// The columns of a tile that the causal rule allows to one of its rows at least.
inline Span allowed(const Mask& mask, long i0, long rows, long j0, long cols) {
    switch (mask.causal) {
        case Mask::lower: return {0, std::clamp(i0 + rows - j0, 0L, cols)};
        case Mask::upper: return {std::clamp(i0 - j0, 0L, cols), cols};
        case Mask::none: break;
    }
    return {0, cols};
}

// The mask as far as this tile needs one: a tile clear of the diagonal needs no causal rule.
inline Mask mask_in(const Mask& mask, long i0, long rows, long j0, long cols) {
    Mask m = mask;
    if ((mask.causal == Mask::lower && j0 + cols - 1 <= i0) ||
        (mask.causal == Mask::upper && j0 >= i0 + rows - 1))
        m.causal = Mask::none;
    return m;
}

template <class A>
void apply_mask(const Tile<A>& t, const Mask& mask, typename A::Value value) {
    const Mask m = mask_in(mask, t.i0, t.rows, t.j0, t.cols);
    if (!m.empty()) kernels<typename A::Value>().mask_tile(t.r, t.ld, t.rows, t.cols, m, t.i0, t.j0, value);
}

}  // namespace rk
