// Relational attention: for each head a, sums over j with the weights P^a of its softmax, of values v_j^a and
// of R relations that all heads share. Mirrors csrc/operations/relational_attention.cpp, which has the
// formulas.
//
// Two walks, neither of which stores a pair: attention over the values, which leaves the log-sum-exp of each
// row, and one for the relations. In the second a block owns 64 rows of a head. For a tile of columns it has
// P = exp(S - lse) in registers, where it receives the tiles of the relations one after the other
// (kSeries of pairs.cuh), multiplies each by P and adds up the rows.
//
// Multiply-adds of a pair: h (2 d + d_v + R d_r + R), 5,700 with 8 heads, 8 relations and all widths 64. On
// the CPU they are 1,600: there a tile of each relation is in L2 for all heads. Without an activation,
// attention over [v, k_rel] takes as many, since a walk computes the scores once for each 64 or 128 values,
// and O(h R d_r) of memory for each row; so there is one way for all activations. Memory beyond the results:
// lse, and with few rows R sums for each row and chunk of 2,048 columns.
#include "relational.cuh"

namespace rk::cuda {

namespace {

constexpr int kGroup = 16;  // relations of a block; their sums are in shared memory

template <class A, int G>
struct RelatedSums {
    using Sum = typename A::Sum;
    using Factor = typename A::Factor;
    static constexpr int kProducts = 1, kValueTiles = 0, kRows = A::kRows * G, kColumns = A::kColumns;
    static constexpr bool kOrderFree = false, kMerges = true, kSeries = true;
    static constexpr int kBlockRows = 16 * G * kMaxWarps;
    static_assert(kRows * kColumns == 32);  // a bit of counted_ for each
    struct Parameters {
        Series<Factor> series;
        Mask mask;
        Sum scale, rel_scale;
        RelationActivation activation;
        const Sum* lse;  // (items, rows)
        Strided out;     // (items, rows, relations)
        Sum* state;      // (parts, items, rows, relations), or null if a block processes all chunks
        long items, rows;
    };
    // The relations' sums of this chunk and of those before it; then what activations stage.
    static long shared_bytes(const Parameters&, int rows) {
        return (2L * kGroup + kTileColumns) * rows * long(sizeof(Sum));
    }

    const Parameters& q;
    const Pairs<Factor>& p;
    const Place place;
    const long row0;
    const std::uint8_t* const mask;
    Sum *const sums, *const totals, *const staged;  // of this warp's rows; sums and totals: of relation 0
    Sum origin_[kRows];
    Sum weights_[kRows][kColumns];
    std::uint32_t counted_ = 0;  // the pairs of the tile that are allowed

    RK_DEVICE RelatedSums(const Parameters& parameters, const Pairs<Factor>& pairs, const Place& at,
                          char* memory)
        : q(parameters),
          p(pairs),
          place(at),
          row0(at.first_row + 16 * G * warp_index()),
          mask(parameters.mask.of_item(pairs.lead, at.item)),
          sums(reinterpret_cast<Sum*>(memory) + 16 * G * warp_index()),
          totals(sums + kGroup * kBlockRows),
          staged(reinterpret_cast<Sum*>(memory) + 2 * kGroup * kBlockRows +
                 16 * G * warp_index() * kTileColumns) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const long row = row0 + A::row_of(lane_index(), i);
            origin_[i] = row < q.rows ? gradient_origin(q.lse[place.item * q.rows + row]) : Sum(0);
        }
        each_sum([&](int at, int) { totals[at] = 0; });
    }

    RK_DEVICE Span columns() const {
        return q.mask.band.columns_of(place.first_row, min(place.first_row + kBlockRows, q.rows));
    }
    RK_DEVICE const Series<Factor>& series() const { return q.series; }
    RK_DEVICE Span members() const {
        const long first = long(place.value_block) * kGroup;
        return {first, min(first + kGroup, long(q.series.count))};
    }

    RK_DEVICE void init() {
        each_sum([&](int at, int) { sums[at] = 0; });
    }
    RK_DEVICE void begin_series(const Sum (&r)[1][kRows][kColumns], long tile) {
        counted_ = pairs_where<A>(TileOfPairs{row0, tile * kTileColumns, q.rows, p.columns[0].count},
                                  [&](long row, long column) { return q.mask.allows(mask, row, column); });
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int j = 0; j < kColumns; ++j)
                weights_[i][j] =
                    counted_ >> (i * kColumns + j) & 1 ? exp(q.scale * r[0][i][j] - origin_[i]) : Sum(0);
    }
    RK_DEVICE void add(int member, Sum (&r)[kRows][kColumns], const Sum (&)[1][kRows][kColumns], long,
                       char*) {
        activate(q.activation, q.rel_scale, r, staged);
        // Forbidden pairs are left out, not multiplied by zero.
        if (counted_ != kAllPairs)
#pragma unroll
            for (int e = 0; e < kRows * kColumns; ++e)
                if (!(counted_ >> e & 1)) r[e / kColumns][e % kColumns] = 0;
        Sum* to = sums + member % kGroup * kBlockRows;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            Sum sum = 0;
#pragma unroll
            for (int j = 0; j < kColumns; ++j) sum = fma(weights_[i][j], r[i][j], sum);
#pragma unroll
            for (int lanes = 1; lanes < A::kRowLanes; lanes *= 2) sum += shuffle_xor(sum, lanes);
            if (lane_index() % A::kRowLanes == 0) to[A::row_of(lane_index(), i)] += sum;
        }
    }
    RK_DEVICE void accept(const Sum (&)[1][kRows][kColumns], long, const char*, char*) const {}
    RK_DEVICE void merge(bool) {
        each_sum([&](int at, int) { totals[at] += sums[at]; });
        init();
    }
    RK_DEVICE void finish() const {
        const long out = q.out.lead.offset(p.lead, place.item);
        each_sum([&](int at, int member) {
            const long row = row0 + at % kBlockRows;
            if (row >= q.rows) return;
            if (q.state)
                q.state[((place.part * q.items + place.item) * q.rows + row) * q.series.count + member] =
                    totals[at];
            else
                store_element(q.out.data, q.out.dtype, out + row * q.out.row + member * q.out.column,
                              totals[at]);
        });
    }

    RK_HOST_DEVICE static long merge_threads(const Parameters& q) {
        return q.items * q.rows * q.series.count;
    }
    RK_DEVICE static void merge_parts(const Parameters& q, const Pairs<Factor>& p, long parts) {
        const long index = long(block_index()) * kMergeThreads + thread_index();
        if (index >= merge_threads(q)) return;
        const long member = index % q.series.count, row = index / q.series.count;
        Sum sum = 0;
        for (long part = 0; part < parts; ++part)
            sum += q.state[part * q.items * q.rows * q.series.count + index];
        const long out = q.out.lead.offset(p.lead, unsigned(row / q.rows));
        store_element(q.out.data, q.out.dtype, out + row % q.rows * q.out.row + member * q.out.column, sum);
    }

   private:
    // Calls f(at, member) for the sums of this thread's rows: those that the first of their lanes keeps.
    template <class F>
    RK_DEVICE void each_sum(const F& f) const {
        if (lane_index() % A::kRowLanes) return;
        const Span some = members();
        for (int member = int(some.begin); member < int(some.end); ++member)
#pragma unroll
            for (int i = 0; i < kRows; ++i)
                f(member % kGroup * kBlockRows + A::row_of(lane_index(), i), member);
    }
};

template <class A>
void sum_relations(const Context& context, const RelationalSides& sides, const Allowed& allowed,
                   const Array& lse, const Array& out) {
    using F = typename A::Factor;
    using Sum = typename A::Sum;
    using Consumer = RelatedSums<A, 1>;
    const Factors<F> q = factors<F>(context, sides.q), k = factors<F>(context, sides.k);
    const Factors<F> q_rel = factors<F>(context, sides.q_rel), k_rel = factors<F>(context, sides.k_rel);
    const std::vector<long> shape = leading(sides.q.shape, 2);
    std::vector<LeadStride> steps;
    Pairs<F> p;
    p.lead = collapse(shape,
                      {q.lead, k.lead, shared_lead(q_rel.lead), shared_lead(k_rel.lead),
                       leading_strides(allowed.mask, shape), leading(out.stride, 2)},
                      steps);
    p.rows[0] = q.rows;
    p.rows[0].lead = steps[0];
    p.columns[0] = k.rows;
    p.columns[0].lead = steps[1];
    Series<F> series = series_of(q_rel, k_rel, sides.relations());
    series.rows.lead = steps[2];
    series.columns.lead = steps[3];
    Mask mask = mask_of(allowed);
    mask.lead = steps[4];
    Strided to = strided(out);
    to.lead = steps[5];
    const long items = p.lead.items(), rows = p.rows[0].count;
    p.row_blocks = p.blocks_of(64);
    p.value_blocks = unsigned(ceil_div(long(series.count), long(kGroup)));
    const Grid grid = grid_of_chunks(long(p.row_blocks) * p.value_blocks * items, p.most_columns(),
                                     context.multiprocessors);
    Sum* state = grid.parts > 1 ? context.take<Sum>(grid.parts * items * rows * series.count) : nullptr;
    launch_walk<A, 1, Consumer>(context, p, grid,
                                {series, mask, Sum(sides.scale), Sum(sides.rel_scale), sides.activation,
                                 reinterpret_cast<const Sum*>(lse.data), to, state, items, rows});
}

}  // namespace

template <class A>
void relational_attention(const Context& context, const RelationalSides& sides, const Allowed& allowed,
                          const RelationalResult& out) {
    const long rows = sides.items() * sides.heads() * sides.q.dim(2);
    if (rows == 0) return;
    Array lse = out.lse;
    if (lse.empty())
        lse = {reinterpret_cast<char*>(context.take<typename A::Sum>(rows)),
               {rows},
               {1},
               DtypeOf<typename A::Sum>::value};
    attention(context, Relation<A>{sides.q, sides.k, nullptr, nullptr, sides.scale}, sides.v, {allowed},
              out.values, lse);
    if (sides.relations() > 0) sum_relations<A>(context, sides, allowed, lse, out.relations);
    check_launch("relational_attention");
}

#define RK_INSTANTIATE(A)                                                                         \
    template void relational_attention<A>(const Context&, const RelationalSides&, const Allowed&, \
                                          const RelationalResult&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)
RK_INSTANTIATE(Half<bfloat16>)
RK_INSTANTIATE(Half<float16>)

}  // namespace rk::cuda
