// The streaming-softmax consumer: shared by attention and by the losses and gradients that need its
// log-sum-exp. State of a block of rows: max, sum, acc (rows x width), all of T.
#pragma once

#include <limits>

#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

template <class T>
struct SoftmaxAccumulate {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    long width;  // of the values; 0: only the log-sum-exp is wanted
    T* out;      // row-major with stride out_row; null where width is 0
    long out_row;
    T* lse;  // contiguous; may be null
    Mask mask;

    struct State {
        T *max, *sum, *acc;
    };
    static State view(const void* state, long rows) {
        T* p = static_cast<T*>(const_cast<void*>(state));
        return {p, p + rows, p + 2 * rows};
    }

    std::size_t state_bytes(long rows) const { return std::size_t(rows * (2 + width)) * sizeof(T); }
    void init(void* state, long rows) const {
        const State s = view(state, rows);
        std::fill_n(s.max, rows, -std::numeric_limits<T>::infinity());
        std::fill_n(s.sum, rows * (1 + width), T(0));
    }
    Span met(long i0, long rows, long j0, long cols) const { return band_columns(mask.band, i0, rows, j0, cols); }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}
    template <class A>
    void accept(void* state, const Tile<A>& t) const {
        const State all = view(state, t.block);
        const State s = {all.max + t.first, all.sum + t.first, all.acc + t.first * width};
        apply_mask(t, mask, -std::numeric_limits<T>::infinity());
        kernels<T>().softmax_accept(t.r, t.ld, t.rows, t.cols, s.max, s.sum, s.acc, width, width);
        if (width > 0) add_weighted(t.r, t.ld, t, 1, width, mask_in(mask, t.i0, t.rows, t.j0, t.cols), s.acc);
    }
    void merge(void* into, const void* from, long rows) const {
        const State a = view(into, rows), b = view(from, rows);
        kernels<T>().softmax_merge(a.max, a.sum, a.acc, b.max, b.sum, b.acc, rows, width);
    }
    void finish(void* state, long i0, long rows) const {
        const State s = view(state, rows);
        kernels<T>().softmax_finish(s.max, s.sum, s.acc, rows, width, out + i0 * out_row, out_row,
                                    lse ? lse + i0 : nullptr);
    }
};

}  // namespace rk
