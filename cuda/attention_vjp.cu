// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   P = exp(R - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i>,  dR = P * (dP - D)
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// Mirrors csrc/operations/attention_vjp.cpp. There are three walks: over queries for dF, over keys for dG,
// and over keys for dv. In each, one block owns a result, so no sum depends on the order in which blocks run.
// Each walk recomputes R: 8 products instead of the 5 of a single walk with shared sums.
#include "attention.cuh"
#include "product.cuh"

namespace rk::cuda {

namespace {

template <class Sum>
struct GradientParameters {
    const Sum *lse, *delta;  // of the queries, (items, queries)
    long queries;
};

// dR with queries as rows: for dF.
template <class T>
struct RowWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = 2;
    static constexpr bool kSoftmax = false, kScores = true;
    static constexpr float kForbidden = 0;
    T lse[4], delta[4];

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, long item, long row0, long rows) {
#pragma unroll
        for (int i = 0; i < A::kRows * G; ++i) {
            const long row = row0 + A::row_of(lane_index(), i);
            lse[i] = row < rows ? q.lse[item * q.queries + row] : T(0);
            delta[i] = row < rows ? q.delta[item * q.queries + row] : T(0);
        }
    }
    RK_DEVICE T weigh(const Parameters&, T s, T slope, T dp, int i, long, long) const {
        return exp(s - lse[i]) * (dp - delta[i]) * slope;
    }
};

// With queries as columns: dR for dG, or P for dv.
template <class T, int Products>
struct ColumnWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = Products;
    static constexpr bool kSoftmax = false, kScores = true;
    static constexpr float kForbidden = 0;
    const T *lse, *delta;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, long item, long, long) {
        lse = q.lse + item * q.queries;
        delta = q.delta + item * q.queries;
    }
    RK_DEVICE T weigh(const Parameters& q, T s, T slope, T dp, int, long, long column) const {
        const long at = min(column, q.queries - 1);  // columns past the edge have features of zeros
        const T p = exp(s - lse[at]);
        return Products == 2 ? p * (dp - delta[at]) * slope : p;
    }
};

constexpr int kDeltaThreads = 128;

// D_i = <dO_i, O_i>, one thread per row; a single chain of sums.
template <class Sum>
RK_KERNEL(kDeltaThreads)
row_products(const __grid_constant__ Lead lead, long rows, int width, const __grid_constant__ Strided a,
             const __grid_constant__ Strided b, Sum* delta) {
    const long index = long(block_index()) * kDeltaThreads + thread_index();
    if (index >= lead.items() * rows) return;
    const Sum* x = static_cast<const Sum*>(a.data) + a.lead.offset(lead, index / rows) + index % rows * a.row;
    const Sum* y = static_cast<const Sum*>(b.data) + b.lead.offset(lead, index / rows) + index % rows * b.row;
    double sum = 0;
    for (int c = 0; c < width; ++c) sum = fma(double(x[c * a.column]), double(y[c * b.column]), sum);
    delta[index] = Sum(sum);
}

// One side of a walk: features, and the factors of the second inner product (null: only one product).
struct Side {
    const Array& features;
    const Array* partners;
};

// One walk: the weights of all pairs times `values`, the sums times `factor`.
template <class A, class Weigher>
void walk(const Context& context, const Side& rows, const Side& columns, const Array& values,
          const Scoring& scoring, double scale, double factor, const typename Weigher::Parameters& q,
          const Array& out) {
    using F = typename A::Factor;
    const std::vector<long> shape = leading(rows.features.shape, 2), none(shape.size(), 0);
    const Factors<F> f = factors<F>(context, rows.features), g = factors<F>(context, columns.features),
                     v = factors<F>(context, values);
    Factors<F> f2, g2;
    f2.lead = g2.lead = none;
    if (rows.partners) f2 = factors<F>(context, *rows.partners);
    if (columns.partners) g2 = factors<F>(context, *columns.partners);
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
    using Sum = typename A::Sum;
    Scorer<Sum> scorer = scorer_of<Sum>(scoring);
    scorer.mask.lead = steps[5];
    scorer.bias_lead = steps[6];
    Strided to = strided(out);
    to.lead = steps[7];
    const WeightedOut<Sum> result = {to, int(values.dim(1)), Sum(factor), nullptr, nullptr, 0, 0, 0};
    sum_weighted_values<A, Weigher, false>(context, p, result, scorer, scale, q);
}

}  // namespace

template <class A>
void attention_vjp(const Context& context, const Relation<A>& relation, const Array& values,
                   const Allowed& allowed, const Array& out, const Array& lse, const Array& grad,
                   const Array& grad_f, const Array& grad_g, const Array& grad_v, const Array& grad_scale) {
    using Sum = typename A::Sum;
    const Array &f = relation.rows, &g = relation.columns;
    const double scale = relation.scale;
    const long n = f.dim(2), m = g.dim(2), items = f.batch(2), width = values.dim(1);
    if (items == 0) return;
    std::vector<LeadStride> steps;
    const Lead lead =
        collapse(leading(grad.shape, 2), {leading(grad.stride, 2), leading(out.stride, 2)}, steps);
    Strided a = strided(grad), b = strided(out);
    a.lead = steps[0];
    b.lead = steps[1];
    Sum* delta = context.take<Sum>(items * std::max(1L, n));
    if (n > 0)
        launch(row_products<Sum>, ceil_div(items * n, kDeltaThreads), 1, kDeltaThreads, 0, context.stream,
               lead, n, int(width), a, b, delta);
    // lse is contiguous over the leading dimensions.
    const GradientParameters<Sum> q = {reinterpret_cast<const Sum*>(lse.data), delta, n};
    if (n > 0) {
        walk<A, RowWeigher<Sum>>(context, {f, &grad}, {g, &values}, g, {allowed}, scale, 1.0, q, grad_f);
        scale_gradient<Sum>(context, f, grad_f, scale, q.lse, grad_scale);
    }
    if (m > 0) {
        const Scoring by_key = {transposed(allowed)};
        walk<A, ColumnWeigher<Sum, 2>>(context, {g, &values}, {f, &grad}, f, by_key, scale, scale, q, grad_g);
        if (width > 0)
            walk<A, ColumnWeigher<Sum, 1>>(context, {g, nullptr}, {f, nullptr}, grad, by_key, scale, 1.0, q,
                                           grad_v);
    }
    check_launch("attention_vjp");
}

#define RK_INSTANTIATE(A)                                                                             \
    template void attention_vjp(const Context&, const Relation<A>&, const Array&, const Allowed&,     \
                                const Array&, const Array&, const Array&, const Array&, const Array&, \
                                const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
