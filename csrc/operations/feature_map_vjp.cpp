// Vector-Jacobian product of phi: given dF, the gradients of x, weights and biases.
//
// Order of sums: rows are cut into at most kParts parts (by their number alone), each part adds up its
// gradients in order, and the parts are added in order. Activations are recomputed, a block of
// Mlp::kVjpRows rows at a time, so memory is kParts gradients and not the hidden layers of every row.
#include <algorithm>

#include "base/threads.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {
constexpr long kParts = 16;
}

template <class T>
void feature_map_vjp(const Array<const T>& x, const Mlp<T>& map, const Array<const T>& grad,
                     const MapGradient<T>& to) {
    const Kernels<T>& k = kernels<T>();
    long parameters = 0;
    for (long l = 0; l < map.depth(); ++l) {
        parameters += map.inputs(l) * map.outputs(l) + (map.has_bias() ? map.outputs(l) : 0);
        std::fill_n(to.weights[std::size_t(l)], map.inputs(l) * map.outputs(l), T(0));
        if (map.has_bias()) std::fill_n(to.biases[std::size_t(l)], map.outputs(l), T(0));
    }
    const Team team(num_threads());
    for (long item = 0; item < x.batch(2); ++item) {
        const Points<T> rows = points_of(x, item, &map);
        const Points<T> above = points_of<T>(grad, item, nullptr);
        T* below = to.x.item(item, 2);
        const long blocks = ceil_div(rows.count, Mlp<T>::kVjpRows);
        const long per_part = ceil_div(blocks, kParts);
        const long parts = blocks ? ceil_div(blocks, per_part) : 0;
        const Buffer<T> sums(parts * parameters);
        team.for_each(parts, [&](long part) {
            T* at = sums.get() + part * parameters;
            std::fill_n(at, parameters, T(0));
            std::vector<T*> weights, biases;
            for (long l = 0; l < map.depth(); ++l) {
                weights.push_back(at);
                at += map.inputs(l) * map.outputs(l);
                if (!map.has_bias()) continue;
                biases.push_back(at);
                at += map.outputs(l);
            }
            const long end = std::min(blocks, (part + 1) * per_part);
            for (long b = part * per_part; b < end; ++b) {
                poll();
                const long i = b * Mlp<T>::kVjpRows, n = std::min(Mlp<T>::kVjpRows, rows.count - i);
                map.vjp(rows.at(i), rows.row, rows.col, above.at(i), above.row, above.col, n,
                        below + i * to.x.step(2), to.x.step(2), weights.data(), biases.data());
            }
        });
        // The parts, in order, into the first; the threads take pieces of the parameters.
        constexpr long kPiece = 8192;
        team.for_each(parts > 1 ? ceil_div(parameters, kPiece) : 0, [&](long piece) {
            const long from = piece * kPiece, size = std::min(kPiece, parameters - from);
            for (long part = 1; part < parts; ++part)
                k.add(sums.get() + from, sums.get() + part * parameters + from, size);
        });
        const T* at = sums.get();
        for (long l = 0; parts > 0 && l < map.depth(); ++l) {
            const long size = map.inputs(l) * map.outputs(l);
            k.add(to.weights[std::size_t(l)], at, size);
            at += size;
            if (!map.has_bias()) continue;
            k.add(to.biases[std::size_t(l)], at, map.outputs(l));
            at += map.outputs(l);
        }
    }
}

#define RK_INSTANTIATE(T)                                                                      \
    template void feature_map_vjp(const Array<const T>&, const Mlp<T>&, const Array<const T>&, \
                                  const MapGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
