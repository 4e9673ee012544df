// O = softmax_j(R) v with R never written: the streaming-softmax consumer over the pairs.
#include "operations/softmax_consumer.hpp"

#include "base/batches.hpp"
#include "operations/operations.hpp"

namespace rk {

template <class T>
void attention(const Relation<T>& r, const Array<const T>& values, const Scoring<T>& scoring,
               const Array<T>& out, const Array<T>& lse) {
    Groups groups(r.segments, r.columns, values);
    const Array<T> log_sums = lse.as_columns();
    join_members(groups, scoring, r.rows.dim(2), r.columns.dim(2), r.rows, out, log_sums);
    groups.join_only_if_gapless(log_sums);
    const auto work = [&](long group) {
        return r.work_of(groups, group, double(values.dim(1)) + scoring.work());
    };
    for_each_item(groups.count(), work, [&](const Team& team, long group) {
        const Array<const T> rows = groups.rows(r.rows, group), keys = groups.columns(r.columns, group);
        const Array<T> to = groups.rows(out, group), logs = groups.rows(log_sums, group);
        const Scoring<T> pairs = scoring.of_group(groups, group, rows.dim(2), keys.dim(2));
        std::vector<Member<T, SoftmaxAccumulate<T>>> members;
        for (long i = 0; i < rows.batch(2); ++i)
            members.push_back(
                {points_of(rows, i, r.phi),
                 {values.dim(1), to.item(i, 2), to.step(2), logs.item(i, 2), pairs.of_item(i)}});
        with_arithmetic<T>(r.precision, [&]<class A>() {
            const std::vector<Operand<A>> columns = {
                {points_of(keys, 0, r.psi), Operand<A>::columns},
                {points_of<T>(groups.columns(values, group), 0, nullptr), Operand<A>::values},
            };
            walk_pairs<A>(team, members, columns, r.scale, 1);
        });
    });
}

#define RK_INSTANTIATE(T)                                                                                  \
    template void attention(const Relation<T>&, const Array<const T>&, const Scoring<T>&, const Array<T>&, \
                            const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
