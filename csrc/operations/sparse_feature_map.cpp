// F = phi(x) for sparse rows: the first layer gathers rows of its weights, the others are those of
// feature_map.
#include <algorithm>

#include "base/threads.hpp"
#include "operations/operations.hpp"

namespace rk {

template <class T>
void sparse_feature_map(const SparseRows<T>& x, const T* weights, const Mlp<T>& map, Precision precision,
                        const Array<T>& out) {
    const Team team = team_for(work_of(x, map));
    const long share = round_up(ceil_div(x.count, team.size()), kernels<T>().mr);
    const long block = std::min(share, kRowBlock);
    team.for_each(block ? ceil_div(x.count, block) : 0, [&](long b) {
        const long i = b * block;
        with_arithmetic<T>(precision, [&]<class A>() {
            map.template forward<A>(x, i, std::min(block, x.count - i), weights, out.data + i * out.step(2),
                                    out.step(2));
        });
    });
}

template void sparse_feature_map(const SparseRows<float>&, const float*, const Mlp<float>&, Precision,
                                 const Array<float>&);
template void sparse_feature_map(const SparseRows<double>&, const double*, const Mlp<double>&, Precision,
                                 const Array<double>&);

}  // namespace rk
