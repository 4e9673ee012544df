// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   S = cap(R + bias),  P = exp(S - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i> - dlse_i
//   dR = P * (dP - D) * cap'(R + bias)
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// Mirrors csrc/operations/attention_vjp.cpp. There are three walks: over queries for dF, over keys for dG,
// and over keys for dv. In each, one block owns a result, so no sum depends on the order in which blocks run.
// Each walk recomputes R: 8 products instead of the 5 of a single walk with shared sums. Gradients of keys
// that items share are sums over the items (member_sums.cuh).
#include "bias_gradient.cuh"
#include "member_sums.cuh"
#include "product.cuh"

namespace rk::cuda {

namespace {

template <class Sum>
struct GradientParameters {
    const Sum *origin, *delta;  // of the queries, (items, queries): P = exp(S - origin), and D
    long queries;
    bool by_query;  // the queries are the walk's rows (for dF), else its columns (for dG and dv)
};

// With two products dR, with one P.
// What it needs of a query is read for each pair: float64 has no registers left to keep it in.
template <class T, int Products>
struct GradientWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = Products, kSums = 0;
    static constexpr bool kSoftmax = false, kScores = true;
    const T *origin, *delta;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, const Place& place, long) {
        const long first = place.item * q.queries + (q.by_query ? place.row_begin : place.column_begin);
        origin = q.origin + first;
        delta = q.delta + first;
    }
    RK_DEVICE T weigh(const Parameters& q, T s, T slope, T dp, int, long row, long column) const {
        const long query = q.by_query ? row : column;
        const T p = exp(s - origin[query]);
        return Products == 2 ? p * (dp - delta[query]) * slope : p;
    }
};

constexpr int kDeltaThreads = 128;

// What a thread for each row reads and writes. `lse`, `origin` and `delta` are contiguous.
template <class Sum>
struct RowsOfQueries {
    Lead lead;
    long rows;
    int width;                    // of the values
    Strided out, grad, grad_lse;  // grad_lse: a null pointer if it is zero
    const Sum* lse;
    Sum *origin, *delta;
};

// D_i, whose inner product is a single chain of sums, and what is subtracted from scores.
template <class Sum>
RK_KERNEL(kDeltaThreads)
prepare_rows(const __grid_constant__ RowsOfQueries<Sum> q) {
    const long index = long(block_index()) * kDeltaThreads + thread_index();
    if (index >= q.lead.items() * q.rows) return;
    const auto row_of = [&](const Strided& a) {
        return static_cast<const Sum*>(a.data) + a.lead.offset(q.lead, unsigned(index / q.rows)) +
               index % q.rows * a.row;
    };
    const Sum *x = row_of(q.grad), *y = row_of(q.out);
    double sum = 0;
    for (int c = 0; c < q.width; ++c)
        sum = fma(double(x[c * q.grad.column]), double(y[c * q.out.column]), sum);
    q.delta[index] = Sum(sum);
    if (q.grad_lse.data) q.delta[index] -= *row_of(q.grad_lse);
    q.origin[index] = gradient_origin(q.lse[index]);
}

// One side of a walk: features, and the factors of the second inner product (null: only one product).
template <class F>
struct Side {
    const Factors<F>& features;
    const Factors<F>* partners;
};

// One walk: the weights of all pairs times the values v, the sums times `factor`.
template <class A, class Weigher, class F = typename A::Factor>
void walk(const Context& context, const Side<F>& rows, const Side<F>& columns, const Factors<F>& v,
          const Scoring& scoring, const SegmentTable& segments, double scale, double factor,
          const typename Weigher::Parameters& q, const Array& out) {
    const std::vector<long> shape = leading(out.shape, 2), none(shape.size(), 0);
    const Factors<F>&f = rows.features, &g = columns.features;
    Factors<F> f2, g2;
    f2.lead = g2.lead = none;
    if (rows.partners) f2 = *rows.partners;
    if (columns.partners) g2 = *columns.partners;
    std::vector<LeadStride> steps;
    Pairs<F> p;
    p.lead = collapse(shape,
                      {f.lead, g.lead, f2.lead, g2.lead, v.lead, leading_strides(scoring.allowed.mask, shape),
                       leading_strides(scoring.bias, shape), leading(out.stride, 2)},
                      steps);
    p.rows[0] = f.rows;
    p.rows[0].lead = steps[0];
    p.columns[0] = g.rows;
    p.columns[0].lead = steps[1];
    p.rows[1] = f2.rows;
    p.rows[1].lead = steps[2];
    p.columns[1] = g2.rows;
    p.columns[1].lead = steps[3];
    p.values = v.rows;
    p.values.lead = steps[4];
    p.segments = segments;
    using Sum = typename A::Sum;
    Scorer<Sum> scorer = scorer_of<Sum>(scoring);
    scorer.mask.lead = steps[5];
    scorer.bias_lead = steps[6];
    Strided to = strided(out);
    to.lead = steps[7];
    const WeightedOut<Sum> result = {to, int(out.dim(1)), Sum(factor), nullptr, nullptr, 0, 0, 0};
    sum_weighted_values<A, Weigher, false>(context, p, result, scorer, scale, q);
}

}  // namespace

template <class A>
void value_gradient(const Context& context, const Factors<typename A::Factor>& f,
                    const Factors<typename A::Factor>& g, const Factors<typename A::Factor>& grad,
                    const Scoring& scoring, const SegmentTable& segments, double scale,
                    const typename A::Sum* origin, const Array& grad_v) {
    walk<A, GradientWeigher<typename A::Sum, 1>>(context, {g, nullptr}, {f, nullptr}, grad,
                                                 transposed(scoring), transposed(segments), scale, 1.0,
                                                 {origin, origin, f.rows.count, false}, grad_v);
}

template <class A>
void attention_vjp(const Context& context, const Relation<A>& relation, const Array& values,
                   const Scoring& scoring, const Array& out, const Array& lse, const Array& grad,
                   const Array& grad_lse, const Array& grad_f, const Array& grad_g, const Array& grad_v,
                   const Array& grad_bias, const Array& grad_scale) {
    using Sum = typename A::Sum;
    const Array &f = relation.rows, &g = relation.columns;
    const double scale = relation.scale;
    const long n = f.dim(2), m = g.dim(2), items = f.batch(2), width = values.dim(1);
    // lse is contiguous over the leading dimensions.
    const Sum* of_rows = reinterpret_cast<const Sum*>(lse.data);
    // A block of 64 rows also reads those past the last query; their results are not used.
    Sum *origin = context.take<Sum>(items * n + 64), *delta = context.take<Sum>(items * n + 64);
    if (items * n > 0) {
        const std::vector<long> shape = leading(grad.shape, 2);
        std::vector<LeadStride> steps;
        RowsOfQueries<Sum> rows = {
            .lead = collapse(
                shape, {leading(out.stride, 2), leading(grad.stride, 2), leading_strides(grad_lse, shape, 1)},
                steps),
            .rows = n,
            .width = int(width),
            .out = strided(out),
            .grad = strided(grad),
            .grad_lse = grad_lse.empty() ? Strided{} : strided(grad_lse, 1),
            .lse = of_rows,
            .origin = origin,
            .delta = delta};
        rows.out.lead = steps[0];
        rows.grad.lead = steps[1];
        rows.grad_lse.lead = steps[2];
        launch(prepare_rows<Sum>, ceil_div(items * n, kDeltaThreads), 1, kDeltaThreads, 0, context.stream,
               rows);
    }
    const GradientParameters<Sum> by_query = {origin, delta, n, true}, by_key = {origin, delta, n, false};
    const SegmentTable segments = table_of(context, relation.segments);
    using F = typename A::Factor;
    const Factors<F> of_f = factors<F>(context, f), of_g = factors<F>(context, g),
                     of_v = factors<F>(context, values), of_grad = factors<F>(context, grad);
    if (items * n > 0) {
        walk<A, GradientWeigher<Sum, 2>>(context, {of_f, &of_grad}, {of_g, &of_v}, of_g, scoring, segments,
                                         scale, 1.0, by_query, grad_f);
        scale_gradient<Sum>(context, f, grad_f, scale, of_rows, grad_scale);
    }
    if (items * m > 0) {
        const Scoring of_keys = transposed(scoring);
        const SegmentTable key_segments = transposed(segments);
        const Array to_g = parts_of<Sum>(context, grad_g), to_v = parts_of<Sum>(context, grad_v);
        walk<A, GradientWeigher<Sum, 2>>(context, {of_g, &of_v}, {of_f, &of_grad}, of_f, of_keys,
                                         key_segments, scale, scale, by_key, to_g);
        add_parts<Sum>(context, to_g, grad_g);
        if (width > 0)
            value_gradient<A>(context, of_f, of_g, of_grad, scoring, segments, scale, origin, to_v);
        add_parts<Sum>(context, to_v, grad_v);
    }
    if (!grad_bias.empty()) {
        Array subtracted = lse;
        subtracted.data = reinterpret_cast<char*>(delta);
        bias_gradient<A, 2>(context, {f, g, scoring, lse, subtracted, grad, values, {}, grad_bias}, scale);
    }
    check_launch("attention_vjp");
}

#define RK_INSTANTIATE(A)                                                                             \
    template void attention_vjp(const Context&, const Relation<A>&, const Array&, const Scoring&,     \
                                const Array&, const Array&, const Array&, const Array&, const Array&, \
                                const Array&, const Array&, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

#define RK_INSTANTIATE_VALUES(T)                                                                         \
    template void value_gradient<Fma<T>>(const Context&, const Factors<T>&, const Factors<T>&,           \
                                         const Factors<T>&, const Scoring&, const SegmentTable&, double, \
                                         const T*, const Array&);
RK_INSTANTIATE_VALUES(float)
RK_INSTANTIATE_VALUES(double)

}  // namespace rk::cuda
