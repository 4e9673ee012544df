// Gradients of the scores of attention, A = softmax_j(S), with dA given:
//
//   D_i = sum_j A_ij dA_ij,   dR = A * (dA - D) * cap'(R + bias),   dF = scale dR G,   dG = scale dR^T F
//
// Mirrors csrc/operations/attention_scores_vjp.cpp. Four walks, none of which stores A: over queries for the
// log-sum-exp, for D and for dF, and over keys for dG.
#include "bias_gradient.cuh"
#include "product.cuh"

namespace rk::cuda {

namespace {

template <class Sum>
struct GradientParameters {
    const Sum* lse;
    Sum* delta;  // D; like lse (items, queries)
    long queries;
    long rows;      // of the walk
    bool by_query;  // the queries are its rows, else its columns
    Lead lead;
    Strided grad;  // dA, transposed in the walk over keys
};

// The walk over queries or over keys, or (Delta) the one that computes D.
template <class T, bool Delta>
struct ScoresGradientWeigher {
    using Parameters = GradientParameters<T>;
    static constexpr int kProducts = 1, kSums = Delta ? 1 : 0;
    static constexpr bool kSoftmax = false, kScores = true;
    T sums[1][4];
    const T *grad, *lse, *delta;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, const Place& place, long) {
        grad = static_cast<const T*>(q.grad.data) + q.grad.lead.offset(q.lead, place.item);
        lse = q.lse + place.item * q.queries;
        delta = q.delta + place.item * q.queries;
    }
    RK_DEVICE T weigh(const Parameters& q, T s, T slope, T, int i, long row, long column) {
        row = min(row, q.rows - 1);  // the sums of rows past the edge are not written
        const long query = q.by_query ? row : column;
        const T weight = exp(s - gradient_origin(lse[query]));
        const T given = grad[row * q.grad.row + column * q.grad.column];
        if (!Delta) return weight * (given - delta[query]) * slope;
        sums[0][i] = fma(weight, given, sums[0][i]);
        return weight;
    }
    RK_DEVICE static void write_sums(const Parameters& q, long row, const T (&sums)[1]) {
        q.delta[row] = sums[0];
    }
};

}  // namespace

template <class A>
void attention_scores_vjp(const Context& context, const Relation<A>& relation, const Scoring& scoring,
                          const Array& grad, const Array& grad_f, const Array& grad_g, const Array& grad_bias,
                          const Array& grad_scale) {
    using Sum = typename A::Sum;
    const Array &f = relation.rows, &g = relation.columns;
    const double scale = relation.scale;
    const long n = f.dim(2), m = g.dim(2), items = f.batch(2);
    const int width = int(f.dim(1));
    Sum *lse = context.take<Sum>(items * n), *delta = context.take<Sum>(items * n);
    // Attended fuses the leading dimensions of `grad` as its output, and those of the gradient as more.
    const auto result = [&](const Attended<A>& a, const Array& out, double factor) {
        Strided to = strided(out);
        to.lead = a.more;
        return WeightedOut<Sum>{to, width, Sum(factor), nullptr, nullptr, 0, 0, 0};
    };
    if (items > 0 && n > 0) {
        Attended<A> a(context, relation, g, scoring, grad, leading(grad_f.stride, 2));
        const GradientParameters<Sum> q = {lse, delta, n, n, true, a.pairs.lead, a.out};
        WeightedOut<Sum> to = result(a, grad_f, 1.0), none = to;
        none.width = 0;
        log_sum_exp(context, a, scale, lse);
        sum_weighted<A, 0, ScoresGradientWeigher<Sum, true>>(context, a.pairs, none, a.scorer, scale, q);
        sum_weighted<A, 1, ScoresGradientWeigher<Sum, false>>(context, a.pairs, to, a.scorer, scale, q);
        scale_gradient<Sum>(context, f, grad_f, scale, lse, grad_scale);
    }
    if (items > 0 && m > 0) {
        Attended<A> a(context, Relation<A>{g, f}, f, transposed(scoring), transposed(grad),
                      leading(grad_g.stride, 2));
        sum_weighted<A, 1, ScoresGradientWeigher<Sum, false>>(context, a.pairs, result(a, grad_g, scale),
                                                              a.scorer, scale,
                                                              {lse, delta, n, m, false, a.pairs.lead, a.out});
    }
    if (!grad_bias.empty()) {
        Array by_row = f;  // its last dimension is not that of a row
        by_row.shape.pop_back();
        by_row.stride.assign(by_row.shape.size(), 1);
        for (std::size_t i = by_row.shape.size() - 1; i-- > 0;)
            by_row.stride[i] = by_row.stride[i + 1] * by_row.shape[i + 1];
        Array lse_by_row = by_row, delta_by_row = by_row;
        lse_by_row.data = reinterpret_cast<char*>(lse);
        delta_by_row.data = reinterpret_cast<char*>(delta);
        bias_gradient<A, 1>(context, {f, g, scoring, lse_by_row, delta_by_row, {}, {}, grad, grad_bias},
                            scale);
    }
    check_launch("attention_scores_vjp");
}

#define RK_INSTANTIATE(A)                                                                                \
    template void attention_scores_vjp(const Context&, const Relation<A>&, const Scoring&, const Array&, \
                                       const Array&, const Array&, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
