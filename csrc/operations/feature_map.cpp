// F = phi(x): blocks of rows through all layers, shared among the threads.
#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

template <class T>
void feature_map(const Array<const T>& x, const Mlp<T>& map, Precision precision, const Array<T>& out) {
    if (x.ndim() > 2 && x.rows_continue() && out.rows_continue())
        return feature_map(x.as_matrix(), map, precision, out.as_matrix());
    for_each_item(x.batch(2), double(x.dim(2)) * map.work(), [&](const Team& team, long item) {
        const Points<T> rows = points_of(x, item, &map);
        T* to = out.item(item, 2);
        const long share = round_up(ceil_div(rows.count, team.size()), kernels<T>().mr);
        const long block = std::min(share, kRowBlock);
        team.for_each(block ? ceil_div(rows.count, block) : 0, [&](long b) {
            const Points<T> part = rows.sub(b * block, std::min(block, rows.count - b * block));
            with_arithmetic<T>(precision, [&]<class A>() {
                features_in<A>(part, to + b * block * out.step(2), out.step(2));
            });
        });
    });
}

template void feature_map(const Array<const float>&, const Mlp<float>&, Precision, const Array<float>&);
template void feature_map(const Array<const double>&, const Mlp<double>&, Precision, const Array<double>&);

}  // namespace rk
