// The k largest R_ij of each row with their columns, R never written.
//
// float32 keys whose codes were prepared, or that have enough queries to pay for making them, are screened
// (screening.hpp): most pairs are left out by a bound of their value, made of 8-bit integers. The result does
// not depend on it.
#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "operations/screening.hpp"
#include "operations/top_k.hpp"

namespace rk {

template <class T>
void retrieve(const Relation<T>& r, const Searchable& searchable, const Array<T>& values,
              const Array<std::int64_t>& indices, const KeyCodes& codes) {
    Groups groups(r.segments, r.columns);
    join_members(groups, searchable.allowed, r.rows.dim(2), r.columns.dim(2), searchable.excluded.ranges,
                 r.rows, values, indices);
    groups.join_only_if_gapless(values, indices);
    const auto work = [&](long group) { return r.work_of(groups, group, 2); };
    for_each_item(groups.count(), work, [&](const Team& team, long group) {
        const Array<const T> rows = groups.rows(r.rows, group);
        const Array<T> best = groups.rows(values, group);
        const Array<std::int64_t> where = groups.rows(indices, group);
        const Points<T> keys = points_of(groups.columns(r.columns, group), 0, r.psi);
        const Searchable pairs = searchable.of_group(groups, group, rows.dim(2), keys.count);
        std::vector<Member<T, TopK<T>>> members;
        for (long i = 0; i < rows.batch(2); ++i) {
            const Points<T> points = points_of(rows, i, r.phi);
            const TopK<T> top{best.dim(1), best.item(i, 2), where.item(i, 2), pairs.of_item(i)};
            if constexpr (std::is_same_v<T, float>)
                if (r.precision == Precision::full && r.scale == 1 &&
                    screening_pays(points, keys, codes, top.k)) {
                    search_screened(team, points, keys, codes, top);
                    continue;
                }
            members.push_back({points, top});
        }
        with_arithmetic<T>(r.precision, [&]<class A>() {
            walk_pairs<A>(team, members, {{keys, Operand<A>::columns}}, r.scale, 1);
        });
    });
}

#define RK_INSTANTIATE(T)                                                          \
    template void retrieve(const Relation<T>&, const Searchable&, const Array<T>&, \
                           const Array<std::int64_t>&, const KeyCodes&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
