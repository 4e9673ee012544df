// Gradients of relational attention. Mirrors csrc/operations/relational_attention_vjp.cpp, which has the
// formulas:
//
//   dS^a = P^a (<dV_i^a, v_j^a> + sum_l dR_i^al A^l_ij - D_i^a)    for q and k
//   dZ^l = act'(Z^l) sum_a dR_i^al P^a_ij                          for q_rel and k_rel
//
// There is a walk for each gradient, in which one block owns a result, as in attention_vjp.cu: over queries
// and over keys for dS^a, whose pairs have the relations as a series of products (pairs.cuh), over keys for
// dv, and over queries and over keys for dZ^l, whose pairs have the scores of the heads as a series.
//
// Relations are recomputed for each head, and scores for each relation. Multiply-adds of a pair:
// h (5 d + 3 d_v + 2 R (d_r + 1)) and R (4 d_r + 2 h (d + 1)), 22,800 with 8 heads, 8 relations and all
// widths
// 64. The CPU takes 4,200, with the tiles of all heads and relations in L2. Memory: R + 2 numbers for each
// query and head, one for each query and relation, and, if masks differ by head, one mask.
#include "product.cuh"
#include "relational.cuh"
#include "relational_queries.cuh"

namespace rk::cuda {

namespace {

template <class T>
struct GradientParameters {
    Series<T> series;
    RelationActivation activation;
    T scale, rel_scale;
    // Of the queries: P = exp(S - origin) and D, (batch, heads, queries), and dR, (batch, heads, relations,
    // queries).
    const T *origin, *delta, *of_relations;
    long queries, keys;
    bool by_query;  // the queries are the rows of the walk, else its columns
    int heads, relations;
    Lead lead;
    Mask of_heads;  // pairs of head 0; null if all heads have the same
    long head_step = 0;
};

// A number of the query of each pair of a tile. The queries are the rows of the walk or its columns.
template <class A, class T, int Rows, int Columns>
struct OfQueries {
    T of_row[Rows], of_column[Columns];
    const bool by_query;

    RK_DEVICE OfQueries(const GradientParameters<T>& q, const T* of_queries, long row0, long column0)
        : by_query(q.by_query) {
        // Past the edge the last one is read; the results of such pairs are not used.
        const auto read = [&](long query) { return of_queries[min(query, q.queries - 1)]; };
#pragma unroll
        for (int i = 0; i < Rows; ++i) of_row[i] = by_query ? read(row0 + A::row_of(lane_index(), i)) : T(0);
#pragma unroll
        for (int j = 0; j < Columns; ++j)
            of_column[j] = by_query ? T(0) : read(column0 + A::column_of(lane_index(), j));
    }
    RK_DEVICE T operator()(int i, int j) const { return by_query ? of_row[i] : of_column[j]; }
};

// dS of a head.
template <class T>
struct HeadWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = 2, kSums = 0;
    static constexpr bool kSoftmax = false, kScores = false, kSeries = true;
    const T *origin, *delta, *of_relations;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, const Place& place, long) {
        origin = q.origin + place.item * q.queries;
        delta = q.delta + place.item * q.queries;
        of_relations = q.of_relations + long(place.item) * q.relations * q.queries;
    }
    // The second product is <dV, v>, to which the relations are added.
    template <class A, int Rows, int Columns>
    RK_DEVICE void add(const Parameters& q, int relation, T (&product)[Rows][Columns],
                       T (&second)[Rows][Columns], long row0, long column0, T* staged) const {
        activate(q.activation, q.rel_scale, product, staged);
        const OfQueries<A, T, Rows, Columns> factor(q, of_relations + relation * q.queries, row0, column0);
#pragma unroll
        for (int i = 0; i < Rows; ++i)
#pragma unroll
            for (int j = 0; j < Columns; ++j) second[i][j] = fma(factor(i, j), product[i][j], second[i][j]);
    }
    template <int Rows, int Columns>
    RK_DEVICE void transform(const Parameters&, T (&)[Rows][Columns], T*) const {}
    RK_DEVICE T weigh(const Parameters& q, T s, T, T above, int, long row, long column) const {
        const long query = min(q.by_query ? row : column, q.queries - 1);
        return exp(s - origin[query]) * (above - delta[query]);
    }
};

// dZ of a relation, whose second product is only the sum over the heads.
template <class T>
struct RelationWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = 2, kSums = 0;
    static constexpr bool kSoftmax = false, kScores = false, kSeries = true;
    const T *origin, *of_relation;
    const std::uint8_t* mask;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, const Place& place, long) {
        const unsigned relations = unsigned(q.relations);
        const long batch = place.item / relations, relation = place.item % relations;
        origin = q.origin + batch * q.heads * q.queries;
        of_relation = q.of_relations + (batch * q.heads * relations + relation) * q.queries;
        mask = q.of_heads.of_item(q.lead, place.item);
    }
    template <class A, int Rows, int Columns>
    RK_DEVICE void add(const Parameters& q, int head, T (&product)[Rows][Columns], T (&second)[Rows][Columns],
                       long row0, long column0, T*) const {
        using Numbers = OfQueries<A, T, Rows, Columns>;
        const Numbers from(q, origin + head * q.queries, row0, column0);
        const Numbers factor(q, of_relation + head * q.relations * q.queries, row0, column0);
#pragma unroll
        for (int i = 0; i < Rows; ++i)
#pragma unroll
            for (int j = 0; j < Columns; ++j) {
                const T weight = exp(q.scale * product[i][j] - from(i, j));
                // The weight of a forbidden pair is left out, not multiplied by zero.
                if (allows(q, head, row0 + A::row_of(lane_index(), i),
                           column0 + A::column_of(lane_index(), j)))
                    second[i][j] = fma(factor(i, j), weight, second[i][j]);
            }
    }
    template <int Rows, int Columns>
    RK_DEVICE void transform(const Parameters& q, T (&product)[Rows][Columns], T* staged) const {
        differentiate(q.activation, q.rel_scale, product, staged);
    }
    RK_DEVICE T weigh(const Parameters&, T slope, T, T above, int, long, long) const { return above * slope; }

   private:
    RK_DEVICE bool allows(const Parameters& q, int head, long row, long column) const {
        if (mask == nullptr) return true;
        row = min(row, (q.by_query ? q.queries : q.keys) - 1);
        column = min(column, (q.by_query ? q.keys : q.queries) - 1);
        return mask[head * q.head_step + row * q.of_heads.row + column * q.of_heads.column];
    }
};

constexpr int kThreads = 128;

struct AnyHead {
    Lead lead;
    LeadStride from_lead;
    const std::uint8_t* from;
    std::uint8_t* to;  // (items, rows, columns), contiguous
    long heads, rows, columns, head_step, row_step, column_step;
};

RK_KERNEL(kThreads)
find_allowed(const __grid_constant__ AnyHead q) {
    const long index = long(block_index()) * kThreads + thread_index();
    const long row = index / q.columns % q.rows, item = index / q.columns / q.rows;
    if (item >= q.lead.items()) return;
    const std::uint8_t* from = q.from + q.from_lead.offset(q.lead, unsigned(item)) + row * q.row_step +
                               index % q.columns * q.column_step;
    bool any = false;
    for (long a = 0; a < q.heads; ++a) any = any || from[a * q.head_step];
    q.to[index] = any;
}

// The dimension of heads of a mask, replaced by one of relations that share what it has for head 0.
Array shared_by_relations(Array mask, long relations) {
    mask.shape[mask.shape.size() - 3] = relations;
    mask.stride[mask.stride.size() - 3] = 0;
    return mask;
}

bool differs_by_head(const Array& mask) { return !mask.empty() && mask.dim(3) > 1 && mask.step(3) != 0; }

// The pairs that some head allows, for each relation.
Array allowed_by_any(const Context& context, const Array& mask, long relations) {
    Array once = shared_by_relations(mask, 1);
    if (!differs_by_head(mask)) return shared_by_relations(mask, relations);
    // Dimensions along which the mask was broadcast are not stored.
    for (std::size_t i = 0; i < once.shape.size(); ++i)
        if (once.stride[i] == 0) once.shape[i] = 1;
    Array any = mask;
    long size = 1;
    for (std::size_t i = once.shape.size(); i-- > 0; size *= once.shape[i])
        any.stride[i] = once.shape[i] > 1 ? size : 0;
    auto* to = context.take<std::uint8_t>(size);
    any.data = reinterpret_cast<char*>(to);
    std::vector<LeadStride> steps;
    const Lead lead = collapse(leading(once.shape, 2), {leading(once.stride, 2)}, steps);
    const AnyHead q = {lead,        steps[0],     reinterpret_cast<const std::uint8_t*>(mask.data),
                       to,          mask.dim(3),  once.dim(2),
                       once.dim(1), mask.step(3), mask.step(2),
                       mask.step(1)};
    if (size > 0) launch(find_allowed, ceil_div(size, kThreads), 1, kThreads, 0, context.stream, q);
    return shared_by_relations(any, relations);
}

template <class F>
struct Product {
    Factors<F> rows, columns;
};

template <class F>
Product<F> transposed(const Product<F>& p) {
    return {p.columns, p.rows};
}

// One walk: the weights of all pairs times the values, the sums times `factor`. `second` is the fixed part of
// the second inner product, if there is one, `members` the series. `of_heads`: the pairs of each head, if
// they differ.
template <class A, class Weigher>
void walk(const Context& context, const Product<typename A::Factor>& first,
          const Product<typename A::Factor>* second, const Product<typename A::Factor>& members, long count,
          const Factors<typename A::Factor>& values, const Allowed& allowed, const Array& of_heads,
          double scale, double factor, GradientParameters<typename A::Sum> q, const Array& out) {
    using F = typename A::Factor;
    using Sum = typename A::Sum;
    const std::vector<long> shape = leading(out.shape, 2), none(shape.size(), 0);
    Product<F> other;
    other.rows.lead = other.columns.lead = none;
    if (second) other = *second;
    std::vector<LeadStride> steps;
    Pairs<F> p;
    p.lead = collapse(
        shape,
        {first.rows.lead, first.columns.lead, other.rows.lead, other.columns.lead, values.lead,
         shared_lead(members.rows.lead), shared_lead(members.columns.lead),
         leading_strides(allowed.mask, shape), leading_strides(of_heads, shape), leading(out.stride, 2)},
        steps);
    p.rows[0] = first.rows.rows;
    p.rows[0].lead = steps[0];
    p.columns[0] = first.columns.rows;
    p.columns[0].lead = steps[1];
    p.rows[1] = other.rows.rows;
    p.rows[1].lead = steps[2];
    p.columns[1] = other.columns.rows;
    p.columns[1].lead = steps[3];
    p.values = values.rows;
    p.values.lead = steps[4];
    q.series = series_of(members.rows, members.columns, count);
    q.series.rows.lead = steps[5];
    q.series.columns.lead = steps[6];
    Scorer<Sum> scorer = scorer_of<Sum>({allowed});
    scorer.mask.lead = steps[7];
    q.lead = p.lead;
    q.of_heads = mask_of({of_heads, {}});
    q.of_heads.lead = steps[8];
    Strided to = strided(out);
    to.lead = steps[9];
    const WeightedOut<Sum> result = {to, int(out.dim(1)), Sum(factor), nullptr, nullptr, 0, 0, 0};
    sum_weighted_values<A, Weigher, false>(context, p, result, scorer, scale, q);
}

}  // namespace

template <class A>
void relational_attention_vjp(const Context& context, const RelationalSides& sides, const Allowed& allowed,
                              const RelationalResult& result, const RelationalResult& grad,
                              const RelationalGradient& to) {
    using Sum = typename A::Sum;
    using F = typename A::Factor;
    const long batch = sides.items(), h = sides.heads(), count = sides.relations();
    const long n = sides.q.dim(2), m = sides.k.dim(2);
    const Queries<Sum> queries(context, sides, result, grad);
    GradientParameters<Sum> q = {.series = {},
                                 .activation = sides.activation,
                                 .scale = Sum(sides.scale),
                                 .rel_scale = Sum(sides.rel_scale),
                                 .origin = queries.origin,
                                 .delta = queries.delta,
                                 .of_relations = queries.of_relations,
                                 .queries = n,
                                 .keys = m,
                                 .by_query = true,
                                 .heads = int(h),
                                 .relations = int(count),
                                 .lead = {},
                                 .of_heads = {}};
    const Product<F> scores = {factors<F>(context, sides.q), factors<F>(context, sides.k)};
    const Product<F> related = {factors<F>(context, sides.q_rel), factors<F>(context, sides.k_rel)};
    const Product<F> above = {factors<F>(context, grad.values), factors<F>(context, sides.v)};
    const Product<F> scores_by_key = transposed(scores), related_by_key = transposed(related),
                     above_by_key = transposed(above);
    GradientParameters<Sum> by_key = q;
    by_key.by_query = false;
    if (batch * h * n > 0) {
        walk<A, HeadWeigher<Sum>>(context, scores, &above, related, count, scores.columns, allowed, {},
                                  sides.scale, 1.0, q, to.q);
        scale_gradient<Sum>(context, sides.q, to.q, sides.scale, queries.lse, to.scale);
    }
    if (batch * h * m > 0) {
        walk<A, HeadWeigher<Sum>>(context, scores_by_key, &above_by_key, related_by_key, count, scores.rows,
                                  transposed(allowed), {}, sides.scale, sides.scale, by_key, to.k);
        if (sides.v.dim(1) > 0)
            value_gradient<A>(context, scores.rows, scores.columns, above.rows, {allowed}, {}, sides.scale,
                              queries.origin, to.v);
    }
    Allowed any = allowed;
    Array of_heads, of_heads_by_key;
    if (!allowed.mask.empty()) any.mask = allowed_by_any(context, allowed.mask, count);
    if (differs_by_head(allowed.mask)) {
        of_heads = shared_by_relations(allowed.mask, count);
        of_heads_by_key = transposed(of_heads);
        q.head_step = by_key.head_step = allowed.mask.step(3);
    }
    if (batch * count * n > 0) {
        walk<A, RelationWeigher<Sum>>(context, related, nullptr, scores, h, related.columns, any, of_heads,
                                      1.0, 1.0, q, to.q_rel);
        scale_gradient<Sum>(context, sides.q_rel, to.q_rel, sides.rel_scale, queries.none, to.rel_scale);
    }
    if (batch * count * m > 0)
        walk<A, RelationWeigher<Sum>>(context, related_by_key, nullptr, scores_by_key, h, related.rows,
                                      transposed(any), of_heads_by_key, 1.0, sides.rel_scale, by_key,
                                      to.k_rel);
    check_launch("relational_attention_vjp");
}

#define RK_INSTANTIATE(A)                                                                             \
    template void relational_attention_vjp<A>(const Context&, const RelationalSides&, const Allowed&, \
                                              const RelationalResult&, const RelationalResult&,       \
                                              const RelationalGradient&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
