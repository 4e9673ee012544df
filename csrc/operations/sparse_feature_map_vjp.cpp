// Vector-Jacobian product of phi for sparse rows: the gradients of weights and biases.
//
// With D the gradient with respect to the first layer's output before its activation, that of its weights is
// X^T D: the gather of the first layer again, over the transposed rows. So every row of it is one sum in the
// order of the rows of X, whatever the number of threads, and rows of columns that X does not store are zero.
//
// Rows are processed kChunk at a time, because D is kept for all rows of a chunk: 64 MiB for 256 floats.
// Beside it, memory is that of add_in_parts without the first layer, and of the transposed entries of a
// chunk.
#include <algorithm>
#include <utility>

#include "operations/map_gradient.hpp"

namespace rk {

namespace {

constexpr long kChunk = 65536;

// Rows [first, first + rows) of x, transposed: row j holds the entries of column j in the order of the rows.
template <class T>
struct Transposed {
    Buffer<T> values;
    Buffer<std::int32_t> columns;
    Buffer<std::int64_t> offsets;
    SparseRows<T> view{};

    Transposed(const SparseRows<T>& x, long first, long rows, long width) {
        const std::int64_t begin = x.offsets[first], end = x.offsets[first + rows];
        values = Buffer<T>(end - begin);
        columns = Buffer<std::int32_t>(end - begin);
        offsets = Buffer<std::int64_t>(width + 1);
        const auto column = [&](std::int64_t e) { return x.columns ? x.columns[e] : x.wide_columns[e]; };
        // Number of entries of each column, then where those of a column begin. As entries are placed, that
        // becomes where those of the next column begin: hence the shift by one.
        std::int64_t* at = offsets.get();
        std::fill_n(at, width + 1, std::int64_t(0));
        for (std::int64_t e = begin; e < end; ++e) ++at[column(e)];
        std::int64_t total = 0;
        for (long j = 0; j < width; ++j) total += std::exchange(at[j], total);
        for (long i = 0; i < rows; ++i) {
            if (i % 1024 == 0) poll();
            for (std::int64_t e = x.offsets[first + i]; e < x.offsets[first + i + 1]; ++e) {
                const std::int64_t to = at[column(e)]++;
                values.get()[to] = x.values[e];
                columns.get()[to] = std::int32_t(i);
            }
        }
        std::copy_backward(at, at + width, at + width + 1);
        at[0] = 0;
        view = {values.get(), columns.get(), nullptr, offsets.get(), width};
    }
};

}  // namespace

template <class T>
void sparse_feature_map_vjp(const SparseRows<T>& x, const T* weights, const Mlp<T>& map,
                            const Array<const T>& grad, const MapGradient<T>& to) {
    for (long l = 0; l < map.depth(); ++l) {
        if (l > 0) std::fill_n(to.weights[std::size_t(l)], map.inputs(l) * map.outputs(l), T(0));
        if (map.has_bias()) std::fill_n(to.biases[std::size_t(l)], map.outputs(l), T(0));
    }
    // As in feature_map_vjp; the gradient of the first layer is a gather like the layer itself.
    const Team team = team_for(3 * work_of(x, map));
    const long width = map.outputs(0);
    const Buffer<T> deltas(std::min(x.count, kChunk) * width);
    long first = 0;
    do {  // at least once: the first chunk overwrites the gradient of the first layer
        const long rows = std::min(x.count - first, kChunk);
        const T* above = grad.data + first * grad.step(2);
        add_in_parts(team, map, 1, rows, to, [&](long i, long n, T* const* to_weights, T* const* to_biases) {
            map.vjp(x, first + i, n, weights, above + i * grad.step(2), grad.step(2), grad.step(1),
                    deltas.get() + i * width, width, to_weights, to_biases);
        });
        const Transposed<T> entries(x, first, rows, map.inputs(0));
        const Finish<T> finish{.accumulate = first > 0};
        team.for_each(ceil_div(map.inputs(0), kRowBlock), [&](long b) {
            const long j = b * kRowBlock;
            kernels<T>().gather(entries.view, j, std::min(kRowBlock, map.inputs(0) - j), deltas.get(), width,
                                width, to.weights[0] + j * width, width, finish);
        });
        first += rows;
    } while (first < x.count);
}

#define RK_INSTANTIATE(T)                                                               \
    template void sparse_feature_map_vjp(const SparseRows<T>&, const T*, const Mlp<T>&, \
                                         const Array<const T>&, const MapGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
