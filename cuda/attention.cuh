// The common arguments of attention, retrieval and matrix-free products, converted to the pairs of a walk;
// and the weights of attention. Mirrors csrc/operations/softmax_consumer.hpp.
#pragma once

#include "operations.hpp"
#include "sum_weighted.cuh"

namespace rk::cuda {

// Queries, keys and optionally values of a batch, with the leading dimensions of all arrays fused, those of
// the mask, the bias and the output included.
template <class A>
struct Attended {
    using F = typename A::Factor;
    Pairs<F> pairs;
    Scorer<typename A::Sum> scorer;
    Strided out;
    LeadStride more;

    // `values` may be absent. `more_lead`: strides of one more array.
    template <class M>
    Attended(const Context& context, const Relation<M>& relation, const Array& values, const Scoring& scoring,
             const Array& to, const std::vector<long>& more_lead = {})
        : scorer(scorer_of<typename A::Sum>(scoring)), out(strided(to)) {
        const Factors<F> f = features<A>(context, relation.rows, relation.phi),
                         g = features<A>(context, relation.columns, relation.psi);
        const std::vector<long> shape = leading(relation.rows.shape, 2), none(shape.size(), 0);
        Factors<F> v;
        v.lead = none;
        if (!values.empty()) v = factors<F>(context, values);
        pairs.rows[0] = f.rows;
        pairs.columns[0] = g.rows;
        pairs.values = v.rows;
        pairs.segments = table_of(context, relation.segments);
        std::vector<LeadStride> steps;
        pairs.lead = collapse(shape,
                              {f.lead, g.lead, v.lead, leading_strides(scoring.allowed.mask, shape),
                               leading_strides(scoring.bias, shape), leading(to.stride, 2),
                               more_lead.empty() ? none : more_lead},
                              steps);
        pairs.rows[0].lead = steps[0];
        pairs.columns[0].lead = steps[1];
        pairs.values.lead = steps[2];
        scorer.mask.lead = steps[3];
        scorer.bias_lead = steps[4];
        out.lead = steps[5];
        more = steps[6];
    }
};

// Weights of attention.
struct SoftmaxWeigher {
    struct Parameters {};
    static constexpr int kProducts = 1, kSums = 0;
    static constexpr bool kSoftmax = true, kScores = true;
    template <class A, int G>
    RK_DEVICE void begin(const Parameters&, const Place&, long) {}
};

// lse (items, rows), contiguous <- log sum_j exp(S_ij), by a walk of its own (attention.cu).
template <class A>
void log_sum_exp(const Context& context, Attended<A>& a, double scale, typename A::Sum* lse);

// What is subtracted from scores to get weights, from the log-sum-exp of their row: the weights of a row with
// a score of +inf are NaN.
template <class Sum>
RK_DEVICE Sum exponent_origin(Sum lse) {
    return lse == Sum(kInfinity) ? Sum(__builtin_nanf("")) : lse;
}

// The same where a row that attended to nothing has weights of zero.
template <class Sum>
RK_DEVICE Sum gradient_origin(Sum lse) {
    return lse == Sum(-kInfinity) ? Sum(kInfinity) : exponent_origin(lse);
}

// grad_v <- P^T dO with P = exp(S - origin), the gradient of the values of attention (attention_vjp.cu). f
// and g are the features, `grad` is dO, and origin is (items, queries).
template <class A>
void value_gradient(const Context& context, const Factors<typename A::Factor>& f,
                    const Factors<typename A::Factor>& g, const Factors<typename A::Factor>& grad,
                    const Scoring& scoring, const SegmentTable& segments, double scale,
                    const typename A::Sum* origin, const Array& grad_v);

}  // namespace rk::cuda
