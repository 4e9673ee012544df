// Vector-Jacobian product of phi: given dF, the gradients of x, weights and biases. Mirrors
// csrc/operations/feature_map_vjp.cpp.
//
//   dz_L = dF, through the division by |z_L| of a map that normalizes
//   dW_l = h_{l-1}^T dz_l,   db_l = sum of rows of dz_l,   dz_{l-1} = act'(z_{l-1}) * dz_l W_l^T
//
// Order of sums: rows are processed in slabs of kSlabRows; within a slab, gradients of parameters are summed
// in parts of kPartRows, each a single chain. Both are cut at fixed places and added in order. Memory: the
// layers of one slab.
#include "activations.cuh"
#include "normalize.cuh"
#include "product.cuh"

namespace rk::cuda {

namespace {

#ifdef RK_CUDA_EMULATED
constexpr long kSlabRows = 128, kPartRows = 32;  // so that small tests cover several of both
#else
constexpr long kSlabRows = 65536, kPartRows = 2048;
#endif
constexpr int kThreads = 128;

template <class Sum>
RK_KERNEL(kThreads)
add_bias(Sum* z, long rows, int width, long pitch, const Sum* bias) {
    const long at = long(block_index()) * kThreads + thread_index();
    if (at < rows * width) z[at / width * pitch + at % width] += bias[at % width];
}

// h <- act(z)
template <class Sum>
RK_KERNEL(kThreads)
activate_all(const Sum* z, Sum* h, long elements, Activation activation, Sum parameter) {
    const long at = long(block_index()) * kThreads + thread_index();
    if (at < elements) h[at] = activate(activation, parameter, z[at]);
}

// grad <- grad * act'(z)
template <class Sum>
RK_KERNEL(kThreads)
activate_all_vjp(const Sum* z, Sum* grad, long elements, Activation activation, Sum parameter) {
    const long at = long(block_index()) * kThreads + thread_index();
    if (at < elements) grad[at] *= activation_derivative(activation, parameter, z[at]);
}

// Column sums of each part of the rows: (parts, width).
template <class Sum>
RK_KERNEL(kThreads)
add_rows(const Sum* grad, long rows, int width, long pitch, Sum* parts) {
    const long at = long(block_index()) * kThreads + thread_index();
    const long part = at / width, column = at % width;
    if (part * kPartRows >= rows) return;
    Sum sum = 0;
    for (long r = part * kPartRows; r < min(rows, (part + 1) * kPartRows); ++r)
        sum += grad[r * pitch + column];
    parts[at] = sum;
}

// to <- to + the parts in order; `fresh`: to <- the parts in order
template <class Sum>
RK_KERNEL(kThreads)
add_to(Sum* to, const Sum* parts, long count, long elements, bool fresh) {
    const long at = long(block_index()) * kThreads + thread_index();
    if (at >= elements) return;
    Sum sum = fresh ? Sum(0) : to[at];
    for (long part = 0; part < count; ++part) sum += parts[part * elements + at];
    to[at] = sum;
}

template <class Sum>
Array matrix(Sum* data, long rows, long columns, long pitch) {
    return {reinterpret_cast<char*>(data), {rows, columns}, {pitch, 1}, DtypeOf<Sum>::value};
}

}  // namespace

template <class A>
void feature_map_vjp(const Context& context, const Array& x, const Mlp<A>& map, const Array& grad,
                     const Array& grad_x, const std::vector<Array>& grad_weights,
                     const std::vector<Array>& grad_biases) {
    using Sum = typename A::Sum;
    const auto over = [&](long elements, auto kernel, auto... arguments) {
        if (elements > 0)
            launch(kernel, ceil_div(elements, kThreads), 1, kThreads, 0, context.stream, arguments...);
    };
    const long depth = map.depth(), items = x.batch(2), rows_of_item = x.dim(2);
    const auto data = [](const Array& a) { return reinterpret_cast<Sum*>(a.data); };
    if (items * rows_of_item == 0) {
        for (long l = 0; l < depth; ++l) {
            const Layer<A>& layer = map.layers()[std::size_t(l)];
            const long size = long(layer.inputs) * layer.outputs;
            over(size, add_to<Sum>, data(grad_weights[std::size_t(l)]), static_cast<const Sum*>(nullptr), 0L,
                 size, true);
            if (map.has_bias())
                over(layer.outputs, add_to<Sum>, data(grad_biases[std::size_t(l)]),
                     static_cast<const Sum*>(nullptr), 0L, long(layer.outputs), true);
        }
        check_launch("feature_map_vjp");
        return;
    }

    // Workspace of a slab: z and h of every layer, and two gradients, with rows padded to 16 bytes.
    const long slab = std::min(kSlabRows, rows_of_item);
    std::vector<long> pitch = {padded_width<Sum>(map.inputs())};
    std::vector<Sum*> z = {nullptr}, h = {context.take<Sum>(slab * pitch[0])};
    long widest = pitch[0], most = 0;
    for (const Layer<A>& layer : map.layers()) {
        pitch.push_back(padded_width<Sum>(layer.outputs));
        widest = std::max(widest, pitch.back());
        most = std::max(most, (long(layer.inputs) + 1) * layer.outputs);
        z.push_back(context.take<Sum>(slab * pitch.back()));
        h.push_back(context.take<Sum>(slab * pitch.back()));
    }
    Sum* above = context.take<Sum>(slab * widest);
    Sum* below = context.take<Sum>(slab * widest);
    Sum* parts = context.take<Sum>(ceil_div(slab, kPartRows) * most);

    // Items in order, and within an item slabs in order.
    std::vector<long> index(std::size_t(x.ndim() - 2), 0);
    for (long item = 0; item < items; ++item) {
        const auto of_item = [&](const Array& a) {
            long offset = 0;
            for (std::size_t i = 0; i < index.size(); ++i) offset += index[i] * a.stride[i];
            return Array{a.at(offset), {a.dim(2), a.dim(1)}, {a.step(2), a.step(1)}, a.dtype};
        };
        const Array item_x = of_item(x), item_grad = of_item(grad), item_out = of_item(grad_x);
        for (long first = 0; first < rows_of_item; first += slab) {
            const long rows = std::min(slab, rows_of_item - first), count = ceil_div(rows, kPartRows);
            const bool fresh = item == 0 && first == 0;
            const Array slab_x = row_slab(item_x, first, rows), slab_grad = row_slab(item_grad, first, rows);
            copy_matrices(context, {}, rows, map.inputs(), pitch[0], strided(slab_x),
                          strided(matrix(h[0], rows, pitch[0], pitch[0])));
            for (long l = 0; l < depth; ++l) {
                const Layer<A>& layer = map.layers()[std::size_t(l)];
                const auto at = std::size_t(l + 1);
                const Array weights = matrix(const_cast<Sum*>(layer.weights.data), layer.outputs,
                                             layer.inputs, layer.weights.pitch);
                multiply<A>(context, matrix(h[at - 1], rows, layer.inputs, pitch[at - 1]), weights, 1.0,
                            matrix(z[at], rows, layer.outputs, pitch[at]), "feature_map_vjp");
                if (layer.bias)
                    over(rows * layer.outputs, add_bias<Sum>, z[at], rows, layer.outputs, pitch[at],
                         layer.bias);
                if (l + 1 < depth)
                    over(rows * pitch[at], activate_all<Sum>, static_cast<const Sum*>(z[at]), h[at],
                         rows * pitch[at], map.activation(), map.parameter());
            }
            copy_matrices(context, {}, rows, map.outputs(), pitch.back(), strided(slab_grad),
                          strided(matrix(above, rows, pitch.back(), pitch.back())));
            if (map.normalizes()) {
                const Strided gradient = strided(matrix(above, rows, map.outputs(), pitch.back()));
                normalize_rows_vjp(context, {}, rows, map.outputs(),
                                   strided(matrix(z.back(), rows, map.outputs(), pitch.back())), gradient,
                                   gradient);
            }
            for (long l = depth - 1; l >= 0; --l) {
                const Layer<A>& layer = map.layers()[std::size_t(l)];
                const auto at = std::size_t(l + 1);
                const long size = long(layer.inputs) * layer.outputs;
                // Full parts are the items of one product; the last part may be shorter.
                const auto part_of = [&](Sum* m, long width, long m_pitch, long from, long parts_of,
                                         long each) {
                    return Array{reinterpret_cast<char*>(m + from * m_pitch),
                                 {parts_of, width, each},
                                 {kPartRows * m_pitch, 1, m_pitch},
                                 DtypeOf<Sum>::value};
                };
                const long whole = rows / kPartRows, rest = rows % kPartRows;
                const auto add_part = [&](long from, long parts_of, long each) {
                    if (parts_of == 0 || each == 0) return;
                    Sum* to = parts + from / kPartRows * size;
                    multiply<A>(context,
                                part_of(h[at - 1], layer.inputs, pitch[at - 1], from, parts_of, each),
                                part_of(above, layer.outputs, pitch[at], from, parts_of, each), 1.0,
                                {reinterpret_cast<char*>(to),
                                 {parts_of, layer.inputs, layer.outputs},
                                 {size, layer.outputs, 1},
                                 DtypeOf<Sum>::value},
                                "feature_map_vjp");
                };
                add_part(0, whole, kPartRows);
                add_part(whole * kPartRows, 1, rest);
                over(size, add_to<Sum>, data(grad_weights[std::size_t(l)]), static_cast<const Sum*>(parts),
                     count, size, fresh);
                if (layer.bias) {
                    over(count * layer.outputs, add_rows<Sum>, static_cast<const Sum*>(above), rows,
                         layer.outputs, pitch[at], parts);
                    over(layer.outputs, add_to<Sum>, data(grad_biases[std::size_t(l)]),
                         static_cast<const Sum*>(parts), count, long(layer.outputs), fresh);
                }
                const Array weights = matrix(const_cast<Sum*>(layer.weights.data), layer.outputs,
                                             layer.inputs, layer.weights.pitch);
                const Array gradient = matrix(above, rows, layer.outputs, pitch[at]);
                if (l == 0) {
                    multiply<A>(context, gradient, transposed(weights), 1.0, row_slab(item_out, first, rows),
                                "feature_map_vjp");
                    break;
                }
                multiply<A>(context, gradient, transposed(weights), 1.0,
                            matrix(below, rows, layer.inputs, pitch[at - 1]), "feature_map_vjp");
                over(rows * pitch[at - 1], activate_all_vjp<Sum>, static_cast<const Sum*>(z[at - 1]), below,
                     rows * pitch[at - 1], map.activation(), map.parameter());
                std::swap(above, below);
            }
        }
        for (std::size_t i = index.size(); i-- > 0;) {
            if (++index[i] < x.shape[i]) break;
            index[i] = 0;
        }
    }
    check_launch("feature_map_vjp");
}

#define RK_INSTANTIATE(A)                                                                       \
    template void feature_map_vjp<A>(const Context&, const Array&, const Mlp<A>&, const Array&, \
                                     const Array&, const std::vector<Array>&, const std::vector<Array>&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
