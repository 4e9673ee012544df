#include "mlp.hpp"

#include <algorithm>

namespace rk {

namespace {

// Row stride of an internal block of rows: whole cache lines, and never a multiple of 4096 bytes, at
// which the rows of a micro-tile would compete for the same few sets of L1.
template <class T>
long padded_row(long width) {
    const long line = 64 / long(sizeof(T));
    const long row = round_up(width, line);
    return row * long(sizeof(T)) % 4096 == 0 ? row + line : row;
}

template <class T>
void copy_strided(const T* src, long row, long col, long rows, long cols, T* dst, long dst_row) {
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; ++j) dst[i * dst_row + j] = src[i * row + j * col];
}

}  // namespace

template <class T>
Mlp<T>::Mlp(const std::vector<Array<const T>>& weights, const std::vector<Array<const T>>& biases,
            Activation activation, T parameter)
    : activation_(activation), parameter_(parameter), has_bias_(!biases.empty()) {
    const Kernels<T>& k = kernels<T>();
    for (std::size_t l = 0; l < weights.size(); ++l) {
        const Array<const T>& w = weights[l];
        Layer layer{w.dim(2), w.dim(1), {}, {}, {}};
        const long padded = round_up(layer.outputs, k.nr);
        layer.panels = Buffer<T>(padded * layer.inputs);
        k.pack(w.data, w.step(2), w.step(1), layer.inputs, layer.outputs, layer.panels.get(),
               layer.inputs * k.nr);
        if (has_bias_) {
            layer.bias = Buffer<T>(padded);
            std::fill_n(layer.bias.get(), padded, T(0));
            copy_strided(biases[l].data, 0, biases[l].step(1), 1, layer.outputs, layer.bias.get(), 0);
        }
        layers_.push_back(std::move(layer));
    }
}

template <class T>
void Mlp<T>::layer(const Layer& layer, const T* in, long in_row, long in_col, long rows, T* out,
                   long out_row) const {
    const Kernels<T>& k = kernels<T>();
    k.product(in, in_row, in_col, layer.panels.get(), layer.inputs * k.nr, rows, layer.outputs, layer.inputs,
              out, out_row, T(1), layer.bias.get(), false);
}

template <class T>
void Mlp<T>::forward(const T* x, long x_row, long x_col, long rows, T* out, long out_row) const {
    const Kernels<T>& k = kernels<T>();
    long widest = 0;
    for (long l = 0; l + 1 < depth(); ++l) widest = std::max(widest, outputs(l));
    const long row = padded_row<T>(widest);
    Arena::Scope scratch;
    T* hidden[2] = {nullptr, nullptr};
    const long most = std::min(rows, kRowBlock);
    if (depth() > 1) hidden[0] = scratch.take<T>(most * row);
    if (depth() > 2) hidden[1] = scratch.take<T>(most * row);

    for (long i = 0; i < rows; i += kRowBlock) {
        const long block = std::min(rows - i, kRowBlock);
        const T* in = x + i * x_row;
        long in_row = x_row, in_col = x_col;
        for (long l = 0; l + 1 < depth(); ++l) {
            T* to = hidden[l % 2];
            layer(layers_[std::size_t(l)], in, in_row, in_col, block, to, row);
            k.activate(activation_, parameter_, to, row, block, outputs(l));
            in = to;
            in_row = row;
            in_col = 1;
        }
        layer(layers_.back(), in, in_row, in_col, block, out + i * out_row, out_row);
    }
}

template <class T>
void Mlp<T>::make_transposed() const {
    const Kernels<T>& k = kernels<T>();
    for (const Layer& layer : layers_) {
        // W again from its panels, then packed the other way round.
        std::vector<T> w(std::size_t(layer.inputs * layer.outputs));
        for (long j = 0; j < layer.outputs; ++j) {
            const T* panel = layer.panels.get() + j / k.nr * layer.inputs * k.nr + j % k.nr;
            for (long i = 0; i < layer.inputs; ++i) w[std::size_t(i * layer.outputs + j)] = panel[i * k.nr];
        }
        layer.transposed = Buffer<T>(round_up(layer.inputs, k.nr) * layer.outputs);
        k.pack(w.data(), 1, layer.outputs, layer.outputs, layer.inputs, layer.transposed.get(),
               layer.outputs * k.nr);
    }
}

template <class T>
void Mlp<T>::vjp(const T* x, long x_row, long x_col, const T* grad, long grad_row, long grad_col, long rows,
                 T* grad_x, long grad_x_row, T* const* grad_weights, T* const* grad_biases) const {
    std::call_once(transposed_once_, [this] { make_transposed(); });
    const Kernels<T>& k = kernels<T>();
    Arena::Scope scratch;

    // Forward, keeping each hidden layer before (z) and after (h) its activation.
    long widest = 0;
    for (long l = 0; l < depth(); ++l) widest = std::max({widest, inputs(l), outputs(l)});
    const long row = padded_row<T>(widest);
    std::vector<T*> z, h;
    const T* in = x;
    long in_row = x_row, in_col = x_col;
    for (long l = 0; l + 1 < depth(); ++l) {
        z.push_back(scratch.take<T>(rows * row));
        h.push_back(scratch.take<T>(rows * row));
        layer(layers_[std::size_t(l)], in, in_row, in_col, rows, z.back(), row);
        for (long i = 0; i < rows; ++i) std::copy_n(z.back() + i * row, outputs(l), h.back() + i * row);
        k.activate(activation_, parameter_, h.back(), row, rows, outputs(l));
        in = h.back();
        in_row = row;
        in_col = 1;
    }

    // Backward: delta is the gradient with respect to the output of layer l before its activation.
    T* delta = scratch.take<T>(rows * row);
    T* below = scratch.take<T>(rows * row);
    T* panels = scratch.take<T>(round_up(widest, k.nr) * rows);
    copy_strided(grad, grad_row, grad_col, rows, outputs(), delta, row);
    for (long l = depth() - 1; l >= 0; --l) {
        const Layer& layer = layers_[std::size_t(l)];
        const bool first = l == 0;
        const T* input = first ? x : h[std::size_t(l) - 1];
        const long input_row = first ? x_row : row, input_col = first ? x_col : 1;
        // dW += input^T delta: the depth of this product is the rows of the block.
        k.pack(delta, row, 1, rows, layer.outputs, panels, rows * k.nr);
        k.product(input, input_col, input_row, panels, rows * k.nr, layer.inputs, layer.outputs, rows,
                  grad_weights[l], layer.outputs, T(1), nullptr, true);
        if (has_bias_) k.add_column_sums(delta, row, rows, layer.outputs, grad_biases[l]);
        k.product(delta, row, 1, layer.transposed.get(), layer.outputs * k.nr, rows, layer.inputs,
                  layer.outputs, first ? grad_x : below, first ? grad_x_row : row, T(1), nullptr, false);
        if (first) break;
        k.activate_vjp(activation_, parameter_, z[std::size_t(l) - 1], row, below, row, rows, layer.inputs);
        std::swap(delta, below);
    }
}

template class Mlp<float>;
template class Mlp<double>;

}  // namespace rk
