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
    if (searchable.all() && one_relation(r.rows, r.columns, values))
        return retrieve(r.as_one(), searchable, values.as_matrix(), indices.as_matrix(), codes);
    for_each_item(r.rows.batch(2), r.work(2), [&](const Team& team, long item) {
        const Points<T> rows = points_of(r.rows, item, r.phi), keys = points_of(r.columns, item, r.psi);
        const TopK<T> best{values.dim(1), values.item(item, 2), indices.item(item, 2),
                           searchable.of_item(item)};
        if constexpr (std::is_same_v<T, float>)
            if (r.precision == Precision::full && r.scale == 1 && screening_pays(rows, keys, codes, best.k))
                return search_screened(team, rows, keys, codes, best);
        with_arithmetic<T>(r.precision, [&]<class A>() {
            walk_pairs<A>(team, rows, {{keys, Operand<A>::columns}}, r.scale, 1, best);
        });
    });
}

#define RK_INSTANTIATE(T)                                                          \
    template void retrieve(const Relation<T>&, const Searchable&, const Array<T>&, \
                           const Array<std::int64_t>&, const KeyCodes&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
