// O = softmax(cap(scale F G^T + bias)) v without storing the scores. Mirrors csrc/operations/attention.cpp.
//
// Flops: 2 n m (d + d_v), and n m exponentials. Bytes: q and the output once; k and v once per block of 64
// rows, from L2. Memory: the features of both sides; if there are too few rows to fill the device, also one
// state per row and chunk of 2,048 keys.
#include "attention.cuh"

namespace rk::cuda {

template <class A>
void log_sum_exp(const Context& context, Attended<A>& a, double scale, typename A::Sum* lse) {
    using Sum = typename A::Sum;
    const WeightedOut<Sum> to = {a.out, 0, Sum(1), lse, nullptr, 0, 0, 0};
    sum_weighted<A, 0, SoftmaxWeigher>(context, a.pairs, to, a.scorer, scale, {});
}

template <class A>
void attention(const Context& context, const Relation<A>& relation, const Array& values,
               const Scoring& scoring, const Array& out, const Array& lse) {
    using Sum = typename A::Sum;
    if (relation.rows.dim(2) == 0 || relation.rows.batch(2) == 0) return;
    const long width = values.dim(1);
    const bool valued = width > 0 && values.dim(2) > 0;
    Attended<A> a(context, relation, valued ? values : Array{}, scoring, out);
    Sum* const to_lse = lse.empty() ? nullptr : reinterpret_cast<Sum*>(lse.data);
    const WeightedOut<Sum> to = {a.out, int(width), Sum(1), to_lse, nullptr, 0, 0, 0};
    constexpr bool kWide = sizeof(Sum) == 4;
    if (width > 0)
        sum_weighted_values<A, SoftmaxWeigher, kWide>(context, a.pairs, to, a.scorer, relation.scale, {});
    else if (to_lse)
        log_sum_exp(context, a, relation.scale, to_lse);
    check_launch("attention");
}

#define RK_INSTANTIATE(A)                                                                                   \
    template void log_sum_exp(const Context&, Attended<A>&, double, A::Sum*);                               \
    template void attention(const Context&, const Relation<A>&, const Array&, const Scoring&, const Array&, \
                            const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
