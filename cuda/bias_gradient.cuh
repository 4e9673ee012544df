// The gradient of the bias of attention: dR = A * (dA - D) * cap'(R + bias), summed over the dimensions along
// which the bias was broadcast.
//
// dR is formed in the workspace, at most kPairsBytes of it at a time, and then added to the gradient: the
// leading dimensions are halved, then the rows, until a part fits. Parts are added in order, each sum of a
// part is a fixed tree.
#pragma once

#include "attention.cuh"
#include "scored_tile.cuh"

namespace rk::cuda {

#ifdef RK_CUDA_EMULATED
inline constexpr long kPairsBytes = 64 << 10;  // so that small tests cover several parts
#else
inline constexpr long kPairsBytes = 64 << 20;
#endif

// The arguments. The leading dimensions of all arrays but `out` are those of the call.
struct BiasGradient {
    Array f, g;
    Scoring scoring;
    Array lse, delta;     // the log-sum-exp of each row and D: no columns
    Array above, values;  // dA_ij is <above_i, values_j>, or
    Array given;
    Array out;  // with sizes of 1 where the bias was broadcast

    // Indices [first, first + count) of a leading dimension or, the last, of the rows.
    BiasGradient part(int dim, long first, long count) const {
        const auto cut = [&](const Array& a) {
            Array s = a;
            if (a.empty() || a.shape[std::size_t(dim)] == 1) return s;
            s.data = a.at(first * a.stride[std::size_t(dim)]);
            s.shape[std::size_t(dim)] = count;
            return s;
        };
        BiasGradient p = *this;
        for (Array* a :
             {&p.f, &p.scoring.allowed.mask, &p.scoring.bias, &p.lse, &p.delta, &p.above, &p.given, &p.out})
            *a = cut(*a);
        if (dim < f.ndim() - 2) {
            p.g = cut(g);
            p.values = cut(values);
        } else {
            p.scoring.allowed.band.least += first;
            p.scoring.allowed.band.greatest += first;
        }
        return p;
    }
};

// Writes dR (items, rows, columns), contiguous.
template <class A, int G, int Products>
struct StoreScoreGradient : Stateless {
    using Sum = typename A::Sum;
    static constexpr int kProducts = Products, kValueTiles = 0;
    struct Parameters {
        Sum* out;
        Scorer<Sum> scorer;
        Sum scale;
        Strided lse, delta, given;
    };

    const Parameters& q;
    const long row0, rows, count;
    const typename Scorer<Sum>::Item scored;
    Sum* out;
    const Sum *lse, *delta, *given;

    RK_DEVICE StoreScoreGradient(const Parameters& parameters, const Pairs<typename A::Factor>& p,
                                 const Place& place, char*)
        : q(parameters),
          row0(place.first_row + 16 * G * warp_index()),
          rows(p.rows[0].count),
          count(p.columns[0].count),
          scored(parameters.scorer.of_item(p.lead, place.item, rows, count)),
          out(parameters.out + place.item * rows * count),
          lse(item_of(parameters.lse, p.lead, place.item)),
          delta(item_of(parameters.delta, p.lead, place.item)),
          given(item_of(parameters.given, p.lead, place.item)) {}
    RK_DEVICE static const Sum* item_of(const Strided& a, const Lead& lead, unsigned item) {
        return static_cast<const Sum*>(a.data) + a.lead.offset(lead, item);
    }
    // All columns: pairs outside of the band are written, too (zeros).
    RK_DEVICE Span columns() const { return {0, count}; }
    RK_DEVICE void accept(Sum (&acc)[Products][A::kRows][A::kColumns], long tile, const char*, char*) const {
        const int lane = lane_index();
        const TileOfPairs here = {row0, tile * kTileColumns, rows, count};
        const std::uint32_t allowed = make_scores<A>(q.scorer, scored, here, q.scale, acc[0]);
        const bool caps = q.scorer.cap != Sum(0);
#pragma unroll
        for (int i = 0; i < A::kRows; ++i) {
            const long r = row0 + A::row_of(lane, i);
            if (r >= rows) continue;
            const Sum origin = gradient_origin(lse[r * q.lse.row]), subtracted = delta[r * q.delta.row];
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                const long c = tile * kTileColumns + A::column_of(lane, j);
                if (c >= count) continue;
                Capped<Sum> s = {acc[0][i][j], Sum(1)};
                if (caps) s = capped(s.value, q.scorer.cap);
                Sum value = 0;
                if (allowed >> (i * A::kColumns + j) & 1) {
                    const Sum above =
                        Products == 2 ? acc[Products - 1][i][j] : given[r * q.given.row + c * q.given.column];
                    value = exp(s.value - origin) * (above - subtracted) * s.slope;
                }
                out[r * count + c] = value;
            }
        }
    }
};

inline constexpr int kBiasThreads = 128;

// How the gradient of a part is added up: each element by one thread, or by the threads of a block.
template <class Sum>
struct PairSums {
    const Sum* pairs;
    long rows, columns;
    Lead kept, summed;  // the leading dimensions that the gradient has, and those that it is summed over
    LeadStride kept_pairs, summed_pairs;
    Strided out;
    bool has_rows, has_columns;  // of the gradient
    bool more;                   // adds to what is there
    int threads;                 // for an element
};

template <class Sum>
RK_KERNEL(kBiasThreads)
add_pairs(const __grid_constant__ PairSums<Sum> q) {
    const long index = long(block_index()) * kBiasThreads + thread_index();
    const long element = index / q.threads, columns = q.has_columns ? q.columns : 1,
               rows = q.has_rows ? q.rows : 1;
    const int t = int(index % q.threads);
    const long column = element % columns, row = element / columns % rows, item = element / columns / rows;
    const bool exists = item < q.kept.items();
    double sum = 0;
    if (exists) {
        const Sum* from = q.pairs + q.kept_pairs.offset(q.kept, unsigned(item)) + row * q.columns + column;
        const long down = q.has_rows ? 1 : q.rows, across = q.has_columns ? 1 : q.columns;
        for (long k = t; k < q.summed.items() * down * across; k += q.threads)
            sum += double(from[q.summed_pairs.offset(q.summed, unsigned(k / across / down)) +
                               k / across % down * q.columns + k % across]);
    }
    if (q.threads > 1) {
        double* sums = reinterpret_cast<double*>(shared_memory());
        sums[t] = sum;
        for (int half = kBiasThreads / 2; half > 0; half /= 2) {
            sync_block();
            if (t < half) sums[t] += sums[t + half];
        }
        sum = sums[0];
    }
    if (!exists || t) return;
    Sum* to = static_cast<Sum*>(q.out.data) + q.out.lead.offset(q.kept, unsigned(item)) + row * q.out.row +
              column * q.out.column;
    *to = q.more ? Sum(double(*to) + sum) : Sum(sum);
}

// The gradient of a part that fits the workspace.
template <class A, int Products>
void add_bias_part(const Context& context, const BiasGradient& call, double scale, bool more,
                   typename A::Sum* pairs) {
    using Sum = typename A::Sum;
    using F = typename A::Factor;
    const std::vector<long> shape = leading(call.f.shape, 2), none(shape.size(), 0);
    const Factors<F> f = factors<F>(context, call.f), g = factors<F>(context, call.g);
    Factors<F> above, values;
    above.lead = values.lead = none;
    if (Products == 2) {
        above = factors<F>(context, call.above);
        values = factors<F>(context, call.values);
    }
    std::vector<LeadStride> steps;
    Pairs<F> p;
    p.lead =
        collapse(shape,
                 {f.lead, g.lead, above.lead, values.lead, leading_strides(call.scoring.allowed.mask, shape),
                  leading_strides(call.scoring.bias, shape), leading(call.lse.stride, 1),
                  leading(call.delta.stride, 1), leading_strides(call.given, shape)},
                 steps);
    p.rows[0] = f.rows;
    p.rows[0].lead = steps[0];
    p.columns[0] = g.rows;
    p.columns[0].lead = steps[1];
    p.rows[1] = above.rows;
    p.rows[1].lead = steps[2];
    p.columns[1] = values.rows;
    p.columns[1].lead = steps[3];
    Scorer<Sum> scorer = scorer_of<Sum>(call.scoring);
    scorer.mask.lead = steps[4];
    scorer.bias_lead = steps[5];
    Strided lse = strided(call.lse, 1), delta = strided(call.delta, 1), given;
    lse.lead = steps[6];
    delta.lead = steps[7];
    if (Products == 1) given = strided(call.given);
    given.lead = steps[8];
    const long rows = call.f.dim(2), columns = call.g.dim(2);
    p.row_blocks = unsigned(ceil_div(rows, 64));
    const Grid grid = grid_of_tiles(long(p.row_blocks) * p.lead.items(), columns, context.multiprocessors);
    if (columns > 0)
        launch_walk<A, 1, StoreScoreGradient<A, 1, Products>>(context, p, grid,
                                                              {pairs, scorer, Sum(scale), lse, delta, given});

    PairSums<Sum> q = {.pairs = pairs,
                       .rows = rows,
                       .columns = columns,
                       .kept = {},
                       .summed = {},
                       .kept_pairs = {},
                       .summed_pairs = {},
                       .out = strided(call.out),
                       .has_rows = call.out.dim(2) == rows,
                       .has_columns = call.out.dim(1) == columns,
                       .more = more,
                       .threads = 1};
    std::vector<long> kept, summed, kept_out;
    std::vector<long> kept_pairs, summed_pairs;
    long step = rows * columns, elements = call.out.dim(2) * call.out.dim(1);
    for (std::size_t i = shape.size(); i-- > 0; step *= shape[i]) {
        const bool is_kept = call.out.shape[i] == shape[i];
        (is_kept ? kept : summed).insert((is_kept ? kept : summed).begin(), shape[i]);
        (is_kept ? kept_pairs : summed_pairs).insert((is_kept ? kept_pairs : summed_pairs).begin(), step);
        if (is_kept) kept_out.insert(kept_out.begin(), call.out.stride[i]);
        if (is_kept) elements *= shape[i];
    }
    q.kept = collapse(kept, {kept_pairs, kept_out}, steps);
    q.kept_pairs = steps[0];
    q.out.lead = steps[1];
    q.summed = collapse(summed, {summed_pairs}, steps);
    q.summed_pairs = steps[0];
    if (!q.has_rows || !q.has_columns) q.threads = kBiasThreads;
    if (elements > 0)
        launch(add_pairs<Sum>, ceil_div(elements * q.threads, kBiasThreads), 1, kBiasThreads,
               kBiasThreads * 8, context.stream, q);
}

template <class A, int Products>
void add_bias_gradient(const Context& context, const BiasGradient& call, double scale, bool more,
                       typename A::Sum* pairs) {
    const long most = kPairsBytes / long(sizeof(typename A::Sum));
    for (int dim = 0; dim < call.f.ndim() - 1; ++dim) {
        const long size = call.f.shape[std::size_t(dim)], half = size / 2;
        if (size == 1 || call.f.batch(1) * call.g.dim(2) <= most) continue;
        add_bias_gradient<A, Products>(context, call.part(dim, 0, half), scale, more, pairs);
        more = more || call.out.shape[std::size_t(dim)] == 1;
        return add_bias_gradient<A, Products>(context, call.part(dim, half, size - half), scale, more, pairs);
    }
    add_bias_part<A, Products>(context, call, scale, more, pairs);
}

// Overwrites call.out. Products: 2 if dA is a product, 1 if it is given.
template <class A, int Products>
void bias_gradient(const Context& context, const BiasGradient& call, double scale) {
    using Sum = typename A::Sum;
    const long m = call.g.dim(2), most = std::max(kPairsBytes / long(sizeof(Sum)), m);
    Sum* pairs = context.take<Sum>(std::min(call.f.batch(1) * m, most));
    add_bias_gradient<A, Products>(context, call, scale, false, pairs);
}

}  // namespace rk::cuda
