// Vector-Jacobian product of phi: given dF, the gradients of x, weights and biases.
//
// Activations are recomputed, a block of Mlp::kVjpRows rows at a time, so memory is that of add_in_parts and
// not the hidden layers of every row.
#include "operations/map_gradient.hpp"
#include "walk/pairs.hpp"

namespace rk {

template <class T>
void feature_map_vjp(const Array<const T>& x, const Mlp<T>& map, const Array<const T>& grad,
                     const MapGradient<T>& to) {
    for (long l = 0; l < map.depth(); ++l) {
        std::fill_n(to.weights[std::size_t(l)], map.inputs(l) * map.outputs(l), T(0));
        if (map.has_bias()) std::fill_n(to.biases[std::size_t(l)], map.outputs(l), T(0));
    }
    // Forward, and two products of the same size backward.
    const Team team = team_for(3 * double(x.dim(2)) * map.work());
    for (long item = 0; item < x.batch(2); ++item) {
        const Points<T> rows = points_of(x, item, &map);
        const Points<T> above = points_of<T>(grad, item, nullptr);
        T* below = to.x.item(item, 2);
        add_in_parts(team, map, 0, rows.count, to, [&](long i, long n, T* const* weights, T* const* biases) {
            map.vjp(rows.at(i), rows.row, rows.col, above.at(i), above.row, above.col, n,
                    below + i * to.x.step(2), to.x.step(2), weights, biases);
        });
    }
}

#define RK_INSTANTIATE(T)                                                                      \
    template void feature_map_vjp(const Array<const T>&, const Mlp<T>&, const Array<const T>&, \
                                  const MapGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
