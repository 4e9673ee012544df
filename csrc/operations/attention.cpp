// O = softmax_j(R) v with R never written: the streaming-softmax consumer over the pairs.
#include "operations/softmax_consumer.hpp"

#include "base/batches.hpp"
#include "operations/operations.hpp"

namespace rk {

template <class T>
void attention(const Relation<T>& r, const Array<const T>& values, const Scoring<T>& scoring,
               const Array<T>& out, const Array<T>& lse) {
    const bool alike = scoring.allowed.all() && scoring.bias.empty();  // for the rows of all items
    if (alike && values.repeats() && one_relation(r.rows, r.columns, out)) {
        const Array<T> flat_lse = lse.empty() ? lse : Array<T>{lse.data, {r.rows.batch(1)}, {1}};
        return attention(r.as_one(), values.first_item(), scoring, out.as_matrix(), flat_lse);
    }
    const double work = r.work(double(values.dim(1)) + scoring.work());
    for_each_item(r.rows.batch(2), work, [&](const Team& team, long item) {
        with_arithmetic<T>(r.precision, [&]<class A>() {
            const std::vector<Operand<A>> columns = {
                {points_of(r.columns, item, r.psi), Operand<A>::columns},
                {points_of<T>(values, item, nullptr), Operand<A>::values},
            };
            walk_pairs(
                team, points_of(r.rows, item, r.phi), columns, r.scale, 1,
                SoftmaxAccumulate<T>{values.dim(1), out.item(item, 2), out.step(2),
                                     lse.empty() ? nullptr : lse.item(item, 1), scoring.of_item(item)});
        });
    });
}

#define RK_INSTANTIATE(T)                                                                                  \
    template void attention(const Relation<T>&, const Array<const T>&, const Scoring<T>&, const Array<T>&, \
                            const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
