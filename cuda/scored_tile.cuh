// A tile of inner products on its way to scores: the pairs that may attend, and the bias. A thread has 32
// pairs of a tile and a bit for each of them, so that what depends on run time is not repeated for every
// pair.
#pragma once

#include "arithmetic.cuh"
#include "scoring.hpp"

namespace rk::cuda {

// Bit i A::kColumns + j is that of the thread's pair (i, j).
inline constexpr std::uint32_t kAllPairs = ~std::uint32_t(0);

// Where the tile of a warp begins, and where rows and columns end.
struct TileOfPairs {
    long row0, column0, rows, columns;
};

// The pairs that exist and for which allows(row, column) holds. The loop is not unrolled whole: eight loads
// of a mask at a time hide enough of the memory's latency.
template <class A, class F>
RK_DEVICE std::uint32_t pairs_where(const TileOfPairs& tile, const F& allows) {
    static_assert(A::kRows * A::kColumns == 32);
    std::uint32_t pairs = 0;
#pragma unroll 1
    for (int i = 0; i < A::kRows; ++i) {
        const long row = tile.row0 + A::row_of(lane_index(), i);
#pragma unroll 8
        for (int j = 0; j < A::kColumns; ++j) {
            const long column = tile.column0 + A::column_of(lane_index(), j);
            const bool counts = row < tile.rows && column < tile.columns && allows(row, column);
            pairs |= std::uint32_t(counts) << (i * A::kColumns + j);
        }
    }
    return pairs;
}

template <class A, class Sum>
RK_DEVICE std::uint32_t pairs_in_mask(const Scorer<Sum>& scorer, const typename Scorer<Sum>::Item& item,
                                      const TileOfPairs& tile) {
    return pairs_where<A>(tile, [&](long row, long column) { return scorer.in_mask(item, row, column); });
}

template <class A, class T, class Sum>
RK_DEVICE void add_bias_of(const Scorer<Sum>& scorer, const T* bias, const TileOfPairs& tile,
                           Sum (&r)[A::kRows][A::kColumns], std::uint32_t& allowed) {
    bias += tile.row0 * scorer.bias_row + (tile.column0 + A::column_of(lane_index(), 0)) * scorer.bias_column;
#pragma unroll
    for (int i = 0; i < A::kRows; ++i) {
        const T* of_row = bias + A::row_of(lane_index(), i) * scorer.bias_row;
#pragma unroll
        for (int j = 0; j < A::kColumns; ++j) {
            const std::uint32_t bit = std::uint32_t(1) << (i * A::kColumns + j);
            if (!(allowed & bit)) continue;
            // The columns of a thread lie as those of thread 0 do.
            const Sum term = Sum(widen(of_row[A::column_of(0, j) * scorer.bias_column]));
            r[i][j] += term;
            if (term == Sum(-kInfinity)) allowed &= ~bit;
        }
    }
}

// Adds the bias, if there is one, to the products of a tile, and takes the pairs that it forbids out of
// `allowed`. The dtype is chosen once, so that many loads are under way at a time.
template <class A, class Sum>
RK_DEVICE void add_bias(const Scorer<Sum>& scorer, const typename Scorer<Sum>::Item& item,
                        const TileOfPairs& tile, Sum (&r)[A::kRows][A::kColumns], std::uint32_t& allowed) {
    if (scorer.bias == nullptr) return;
    with_element<Sum>(scorer.bias_dtype, [&](auto element) {
        add_bias_of<A>(scorer, static_cast<const decltype(element)*>(scorer.bias) + item.bias, tile, r,
                       allowed);
    });
}

// Makes the products of a tile scores before the cap, and returns the pairs that may attend.
template <class A, class Sum>
RK_DEVICE std::uint32_t make_scores(const Scorer<Sum>& scorer, const typename Scorer<Sum>::Item& item,
                                    const TileOfPairs& tile, Sum scale, Sum (&r)[A::kRows][A::kColumns]) {
    for_each_unrolled(r, [&](Sum product) { return scale * product; });
    std::uint32_t allowed = pairs_in_mask<A>(scorer, item, tile);
    add_bias<A>(scorer, item, tile, r, allowed);
    return allowed;
}

}  // namespace rk::cuda
