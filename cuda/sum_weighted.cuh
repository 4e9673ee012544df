// Launches of walks with a weighted consumer.
#pragma once

#include "context.hpp"
#include "weighted.cuh"

namespace rk::cuda {

// Runs a walk with a weighted consumer: cuts it and allocates its states.
template <class A, int ValueTiles, class Weigher>
void sum_weighted(const Context& context, Pairs<typename A::Factor>& p, WeightedOut<typename A::Sum> to,
                  const Scorer<typename A::Sum>& scorer, double scale,
                  const typename Weigher::Parameters& weigher) {
    using Sum = typename A::Sum;
    using Consumer = Weighted<A, 1, ValueTiles, Weigher>;
    constexpr int kValueWidth = ValueTiles * kTileColumns;
    p.row_blocks = p.blocks_of(64);
    p.value_blocks = ValueTiles ? unsigned(std::max(1L, ceil_div(to.width, long(kValueWidth)))) : 1;
    to.rows = p.rows[0].count;
    to.items = p.lead.items();
    to.state_width = kValueWidth + 2;
    to.state = nullptr;
    const Grid grid = grid_of_chunks(long(p.row_blocks) * p.value_blocks * to.items, p.most_columns(),
                                     context.multiprocessors);
    if (grid.blocks == 0) return;
    if (ceil_div(p.most_columns(), kTileColumns) > kChunkTiles)
        to.state = context.take<Sum>(grid.parts * p.value_blocks * to.items * to.rows * to.state_width);
    launch_walk<A, 1, Consumer>(context, p, grid, {to, scorer, Sum(scale), grid.parts > 1, weigher});
}

// Values 128 columns at a time, if there are more than 64 and shared memory has room for them.
template <class A, class Weigher, bool Wide>
void sum_weighted_values(const Context& context, Pairs<typename A::Factor>& p,
                         const WeightedOut<typename A::Sum>& to, const Scorer<typename A::Sum>& scorer,
                         double scale, const typename Weigher::Parameters& weigher) {
    if constexpr (Wide)
        if (to.width > kTileColumns &&
            walk_bytes<A, 1, Weighted<A, 1, 2, Weigher>>(p, {}, false) <= context.shared_bytes)
            return sum_weighted<A, 2, Weigher>(context, p, to, scorer, scale, weigher);
    sum_weighted<A, 1, Weigher>(context, p, to, scorer, scale, weigher);
}

}  // namespace rk::cuda
