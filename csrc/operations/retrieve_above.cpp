// All R_ij at or above a threshold, R never written. float32 keys are screened as in retrieve.cpp, with the
// threshold in place of the k-th best value.
#include "base/batches.hpp"
#include "operations/above.hpp"
#include "operations/operations.hpp"
#include "operations/screening.hpp"

namespace rk {

template <class T>
void retrieve_above(const Relation<T>& r, const Searchable& searchable, const Array<const T>& thresholds,
                    const KeyCodes& codes, FoundPairs<T>& found) {
    const long n = r.rows.dim(2);
    for_each_item(r.rows.batch(2), r.work(2), [&](const Team& team, long item) {
        const Points<T> rows = points_of(r.rows, item, r.phi), keys = points_of(r.columns, item, r.psi);
        const Buffer<T> bars(n);
        for (long i = 0; i < n; ++i) bars.get()[i] = bar_of(thresholds.item(item, 1)[i * thresholds.step(1)]);
        const Above<T> above{bars.get(), searchable.of_item(item), &found, item * n};
        if constexpr (std::is_same_v<T, float>)
            if (r.precision == Precision::full && r.scale == 1 && screening_pays(rows, keys, codes, 0))
                return search_screened(team, rows, keys, codes, above);
        with_arithmetic<T>(r.precision, [&]<class A>() {
            walk_pairs<A>(team, rows, {{keys, Operand<A>::columns}}, r.scale, 1, above);
        });
    });
}

#define RK_INSTANTIATE(T)                                                                      \
    template void retrieve_above(const Relation<T>&, const Searchable&, const Array<const T>&, \
                                 const KeyCodes&, FoundPairs<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
