// u = link(R) v without storing R. Mirrors csrc/operations/relation_matvec.cpp.
//
// Flops: 2 n m (d + c), and n m links. Bytes: the features, from L2. With a single column, each thread
// multiplies the sums that it holds by v; more columns take a second product. Float16 is multiplied in Tf32,
// which represents it exactly, because the result of a link may exceed float16's range.
#include "attention.cuh"
#include "links.cuh"

namespace rk::cuda {

namespace {

// The arithmetic of inner products of factors of A.
template <class A>
using Products = std::conditional_t<std::is_same_v<A, Half<float16>>, Tf32, A>;

template <class T, bool Distance>
struct LinkWeigher {
    struct Parameters {
        Link link;
    };
    static constexpr int kProducts = 1, kSums = 0;
    static constexpr bool kSoftmax = false, kScores = false;
    template <class A, int G>
    RK_DEVICE void begin(const Parameters&, const Place&, long) {}
    RK_DEVICE T weigh(const Parameters& q, T r, T, T, int, long, long) const {
        return linked<Distance>(q.link, r);
    }
};

// A single column: each thread adds up its columns of R; at the end of a chunk these sums are added over the
// lanes of a row, then to the sum of the chunks before, in order.
template <class A, int G>
struct LinkedDot {
    using Sum = typename A::Sum;
    static constexpr int kProducts = 1, kValueTiles = 0, kRows = A::kRows * G;
    static constexpr bool kOrderFree = false, kMerges = true;
    struct Parameters {
        const Sum* v;  // contiguous
        LeadStride v_lead;
        Link link;
        Sum scale;
        Sum* state;  // (parts, items, rows), or null if a block processes all chunks
        Strided out;
        long items, rows;
    };
    static long shared_bytes(const Parameters&, int) { return 0; }

    const Parameters& q;
    const Pairs<typename A::Factor>& p;
    const Place place;
    const long row0, rows, count;
    const Sum* v;
    Sum sum_[kRows], total_[kRows];

    RK_DEVICE LinkedDot(const Parameters& parameters, const Pairs<typename A::Factor>& pairs, const Place& at,
                        char*)
        : q(parameters),
          p(pairs),
          place(at),
          row0(at.first_row + 16 * G * warp_index()),
          rows(pairs.rows[0].count),
          count(pairs.columns[0].count),
          v(parameters.v + parameters.v_lead.offset(pairs.lead, at.item)) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) total_[i] = 0;
    }
    RK_DEVICE Span columns() const { return {0, count}; }
    RK_DEVICE void init() {
#pragma unroll
        for (int i = 0; i < kRows; ++i) sum_[i] = 0;
    }
    RK_DEVICE void accept(Sum (&acc)[1][kRows][A::kColumns], long tile, const char*, char*) {
#pragma unroll
        for (int j = 0; j < A::kColumns; ++j) {
            const long c = tile * kTileColumns + A::column_of(lane_index(), j);
            if (c >= count) continue;
            const Sum value = v[c];
#pragma unroll
            for (int i = 0; i < kRows; ++i)
                sum_[i] = fma(linked<has_distances<A>>(q.link, q.scale * acc[0][i][j]), value, sum_[i]);
        }
    }
    RK_DEVICE void merge(bool) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            Sum sum = sum_[i];
#pragma unroll
            for (int lanes = 1; lanes < A::kRowLanes; lanes *= 2) sum += shuffle_xor(sum, lanes);
            total_[i] += sum;
        }
        init();
    }
    RK_DEVICE void finish() const {
        if (lane_index() % A::kRowLanes) return;
        const long out = q.out.lead.offset(p.lead, place.item);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const long row = row0 + A::row_of(lane_index(), i);
            if (row >= rows) continue;
            if (q.state)
                q.state[(place.part * p.lead.items() + place.item) * rows + row] = total_[i];
            else
                store_element(q.out.data, q.out.dtype, out + row * q.out.row, total_[i]);
        }
    }

    static long merge_threads(const Parameters& q) { return q.items * q.rows; }
    RK_DEVICE static void merge_parts(const Parameters& q, const Pairs<typename A::Factor>& p, long parts) {
        const long index = long(block_index()) * kMergeThreads + thread_index();
        if (index >= q.items * q.rows) return;
        Sum total = 0;
        for (long part = 0; part < parts; ++part) total += q.state[part * q.items * q.rows + index];
        store_element(q.out.data, q.out.dtype,
                      q.out.lead.offset(p.lead, index / q.rows) + index % q.rows * q.out.row, total);
    }
};

// The product, pairs being compared in the arithmetic P.
template <class P, class A>
void multiply_linked(const Context& context, const Relation<A>& relation, const Array& values, Link link,
                     const Array& out) {
    using Sum = typename P::Sum;
    using Dot = LinkedDot<P, 1>;
    const long width = values.dim(1);
    if (width > 1) {
        Attended<P> a(context, relation, values.dim(2) > 0 ? values : Array{}, {}, out);
        const WeightedOut<Sum> to = {a.out, int(width), Sum(1), nullptr, nullptr, 0, 0, 0};
        sum_weighted_values<P, LinkWeigher<Sum, has_distances<P>>, false>(context, a.pairs, to, a.scorer,
                                                                          relation.scale, {link});
        return;
    }
    // The vector with unit stride, in the dtype of the sums.
    const Factors<Sum> vector = factors<Sum>(context, transposed(values));
    Attended<P> a(context, relation, {}, {}, out, vector.lead);
    Pairs<typename P::Factor>& p = a.pairs;
    p.row_blocks = unsigned(ceil_div(p.rows[0].count, 64));
    const long items = p.lead.items(), rows = p.rows[0].count;
    const Grid grid = grid_of_chunks(p.row_blocks * items, p.columns[0].count, context.multiprocessors);
    Sum* state = grid.parts > 1 ? context.take<Sum>(grid.parts * items * rows) : nullptr;
    launch_walk<P, 1, Dot>(context, p, grid,
                           {vector.rows.data, a.more, link, Sum(relation.scale), state, a.out, items, rows});
}

}  // namespace

template <class A>
void relation_matvec(const Context& context, const Relation<A>& relation, const Array& values, Link link,
                     const Array& out) {
    if (out.dim(1) == 0 || out.dim(2) == 0 || out.batch(2) == 0) return;
    if (is_of_distance(link))
        multiply_linked<Distances<typename A::Sum>>(context, relation, values, link, out);
    else
        multiply_linked<Products<A>>(context, relation, values, link, out);
    check_launch("relation_matvec");
}

#define RK_INSTANTIATE(A) \
    template void relation_matvec(const Context&, const Relation<A>&, const Array&, Link, const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
