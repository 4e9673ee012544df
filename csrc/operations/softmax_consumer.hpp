// The streaming-softmax consumer: shared by attention and by the losses and gradients that need its
// log-sum-exp.
#pragma once

#include <limits>

#include "walk/pairs.hpp"
#include "walk/scoring.hpp"

namespace rk {

template <class T>
struct SoftmaxAccumulate {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    long width;  // of the values; 0: only the log-sum-exp is wanted
    T* out;      // row-major with stride out_row; null where width is 0
    long out_row;
    T* lse;  // contiguous; may be null
    ItemScoring<T> scoring;

    struct State {
        T *max, *sum, *acc;  // of each row; acc: rows x width

        // From row `first` on.
        State from(long first, long width) const { return {max + first, sum + first, acc + first * width}; }
    };
    State make(Space& space, long rows) const {
        return {space.take<T>(rows), space.take<T>(rows), space.take<T>(rows * width)};
    }
    void init(State& s, long rows) const {
        std::fill_n(s.max, rows, -std::numeric_limits<T>::infinity());
        std::fill_n(s.sum, rows, T(0));
        std::fill_n(s.acc, rows * width, T(0));
    }
    Span met(long i0, long rows, long j0, long cols) const {
        return band_columns(scoring.mask.band, i0, rows, j0, cols);
    }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}
    template <class A>
    void accept(State& state, const Tile<A>& t) const {
        Arena::Scope scratch;
        const State s = state.from(t.first, width);
        const Mask mask = scoring.apply(t, scratch);
        kernels<T>().softmax_accept(t.r, t.ld, t.rows, t.cols, s.max, s.sum, s.acc, width, width);
        if (width > 0) add_weighted(t.r, t.ld, t, 1, width, mask, s.acc, width);
    }
    void merge(State& a, const State& b, long rows) const {
        kernels<T>().softmax_merge(a.max, a.sum, a.acc, b.max, b.sum, b.acc, rows, width);
    }
    void finish(State& s, long i0, long rows) const {
        kernels<T>().softmax_finish(s.max, s.sum, s.acc, rows, width, out + i0 * out_row, out_row,
                                    lse ? lse + i0 : nullptr);
    }
};

}  // namespace rk
