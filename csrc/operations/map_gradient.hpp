// Sums of gradients of a map's parameters over rows.
//
// Order of sums: rows are cut into at most 16 parts (by their number alone), each part adds up its gradients
// in order, and the parts are added in order. Memory is that many gradients.
#pragma once

#include <algorithm>
#include <vector>

#include "base/threads.hpp"
#include "operations/operations.hpp"

namespace rk {

// Adds the gradients of layers `first` and above, and of all biases, over `rows` rows to `to`. add(i, n,
// weights, biases) adds those of rows [i, i + n), n <= Mlp::kVjpRows, to the given arrays.
template <class T, class Add>
void add_in_parts(const Team& team, const Mlp<T>& map, long first, long rows, const MapGradient<T>& to,
                  const Add& add) {
    constexpr long kParts = 16;
    const long blocks = ceil_div(rows, Mlp<T>::kVjpRows);
    if (blocks == 0) return;
    // f(layer, is_bias, size) for each array of parameters, in the order in which a part stores them.
    const auto each = [&](const auto& f) {
        for (long l = 0; l < map.depth(); ++l) {
            if (l >= first) f(l, false, map.inputs(l) * map.outputs(l));
            if (map.has_bias()) f(l, true, map.outputs(l));
        }
    };
    long parameters = 0;
    each([&](long, bool, long size) { parameters += size; });
    const long per_part = ceil_div(blocks, kParts), parts = ceil_div(blocks, per_part);
    const Buffer<T> sums(parts * parameters);
    team.for_each(parts, [&](long part) {
        T* at = sums.get() + part * parameters;
        std::fill_n(at, parameters, T(0));
        std::vector<T*> weights(std::size_t(map.depth())), biases(std::size_t(map.depth()));
        each([&](long l, bool is_bias, long size) {
            (is_bias ? biases : weights)[std::size_t(l)] = at;
            at += size;
        });
        const long end = std::min(blocks, (part + 1) * per_part);
        for (long b = part * per_part; b < end; ++b) {
            poll();
            const long i = b * Mlp<T>::kVjpRows;
            add(i, std::min(Mlp<T>::kVjpRows, rows - i), weights.data(), biases.data());
        }
    });
    // The parts, in order, into the first; the threads take pieces of the parameters.
    const Kernels<T>& k = kernels<T>();
    constexpr long kPiece = 8192;
    team.for_each(parts > 1 ? ceil_div(parameters, kPiece) : 0, [&](long piece) {
        const long from = piece * kPiece, size = std::min(kPiece, parameters - from);
        for (long part = 1; part < parts; ++part)
            k.add(sums.get() + from, sums.get() + part * parameters + from, size);
    });
    const T* at = sums.get();
    each([&](long l, bool is_bias, long size) {
        k.add((is_bias ? to.biases : to.weights)[std::size_t(l)], at, size);
        at += size;
    });
}

}  // namespace rk
