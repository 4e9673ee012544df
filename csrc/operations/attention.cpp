// O = softmax_j(R) v with R never written: the streaming-softmax consumer over the pairs.
#include "operations/softmax_consumer.hpp"

#include "base/batches.hpp"
#include "operations/operations.hpp"

namespace rk {

template <class T>
void attention(const Array<const T>& q, const Array<const T>& k, const Array<const T>& v, const Mlp<T>* phi,
               const Mlp<T>* psi, Precision precision, T scale, const Array<const std::uint8_t>& mask,
               const Band& band, const Array<T>& out, const Array<T>& lse) {
    if (mask.empty() && band.unlimited() && v.repeats() && one_relation(q, k, out)) {
        const Array<T> flat_lse = lse.empty() ? lse : Array<T>{lse.data, {q.batch(1)}, {1}};  // contiguous
        return attention(q.as_matrix(), k.first_item(), v.first_item(), phi, psi, precision, scale, mask,
                         band, out.as_matrix(), flat_lse);
    }
    for_each_item(q.batch(2), [&](const Team& team, long item) {
        with_arithmetic<T>(precision, [&]<class A>() {
            const std::vector<Operand<A>> columns = {
                {points_of(k, item, psi), Operand<A>::columns},
                {points_of<T>(v, item, nullptr), Operand<A>::values},
            };
            walk_pairs(
                team, points_of(q, item, phi), columns, scale, 1,
                SoftmaxAccumulate<T>{v.dim(1), out.item(item, 2), out.step(2),
                                     lse.empty() ? nullptr : lse.item(item, 1), mask_of(mask, band, item)});
        });
    });
}

#define RK_INSTANTIATE(T)                                                                                 \
    template void attention(const Array<const T>&, const Array<const T>&, const Array<const T>&,          \
                            const Mlp<T>*, const Mlp<T>*, Precision, T, const Array<const std::uint8_t>&, \
                            const Band&, const Array<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
