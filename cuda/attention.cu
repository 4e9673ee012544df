// O = softmax(scale F G^T) v, scores never stored. csrc/attention.cpp on a device.
//
// Flops 2 n m (d + d_v) and n m exponentials; bytes: q, k, v and the output once a block of 64 rows, from
// L2. Memory: features of both sides, and where there are too few rows to fill the device one state a row and
// chunk of 2,048 keys.
#include "attention.cuh"

namespace rk::cuda {

template <class A>
void attention(const Context& context, const Array& q, const Array& k, const Array& v, const Mlp<A>* phi,
               const Mlp<A>* psi, double scale, const MaybeArray& mask, const Band& band, const Array& out,
               const MaybeArray& lse) {
    using Sum = typename A::Sum;
    if (q.dim(2) == 0 || q.batch(2) == 0) return;
    const bool valued = v.dim(1) > 0 && v.dim(2) > 0;
    Attended<A> a(context, q, k, valued ? &v : nullptr, phi, psi, mask, band, out);
    const WeightedOut<Sum> to = {
        a.out, int(v.dim(1)), Sum(1), lse ? reinterpret_cast<Sum*>(lse->data) : nullptr, nullptr, true, 0, 0,
        0};
    constexpr bool kWide = sizeof(Sum) == 4;
    if (v.dim(1) > 0)
        sum_weighted_values<A, SoftmaxWeigher, kWide>(context, a.pairs, to, a.mask, scale, {});
    else if (lse)
        sum_weighted<A, 0, SoftmaxWeigher>(context, a.pairs, to, a.mask, scale, {});
    check_launch("attention");
}

#define RK_INSTANTIATE(A)                                                                            \
    template void attention(const Context&, const Array&, const Array&, const Array&, const Mlp<A>*, \
                            const Mlp<A>*, double, const MaybeArray&, const Band&, const Array&,     \
                            const MaybeArray&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
