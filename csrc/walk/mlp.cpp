#include "walk/mlp.hpp"

#include <algorithm>

#include "base/threads.hpp"
#include "walk/matrix_product.hpp"

namespace rk {

namespace {

template <class T>
void copy_strided(const T* src, long row, long col, long rows, long cols, T* dst, long dst_row) {
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; ++j) dst[i * dst_row + j] = src[i * row + j * col];
}

}  // namespace

template <class T>
Mlp<T>::Mlp(const std::vector<Array<const T>>& weights, const std::vector<Array<const T>>& biases,
            Activation activation, T parameter, bool normalize)
    : activation_(activation), parameter_(parameter), has_bias_(!biases.empty()), normalize_(normalize) {
    const Kernels<T>& k = kernels<T>();
    for (std::size_t l = 0; l < weights.size(); ++l) {
        const Array<const T>& w = weights[l];
        Layer layer{w.dim(2), w.dim(1), {}, {}, {}, {}};
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
T Mlp<T>::floor(bool hidden) const {
    return hidden && activation_ == Activation::relu ? T(0) : Finish<T>{}.floor;
}

template <class T>
bool Mlp<T>::activates(bool hidden) const {
    return hidden && activation_ != Activation::relu && activation_ != Activation::identity;
}

template <class T>
double Mlp<T>::work() const {
    double sum = normalize_ ? 4 * double(outputs()) : 0;
    for (long l = 0; l < depth(); ++l)
        sum += double(outputs(l)) * (double(inputs(l)) + (activates(l + 1 < depth()) ? kWorkOfExp : 0));
    return sum;
}

template <class T>
template <class A>
const typename A::Factor* Mlp<T>::panels(const Layer& layer) const {
    if constexpr (std::is_same_v<A, Bf16>)
        return layer.panels_bf16.get();
    else
        return layer.panels.get();
}

template <class T>
template <class A>
void Mlp<T>::multiply(const Layer& layer, const T* x, long x_row, long x_col, long rows,
                      typename A::Factor* factors, long factor_row, T* out, long out_row,
                      const Finish<T>& finish) const {
    const long stride = A::nr() * A::padded(layer.inputs);
    if constexpr (A::kConverts) {
        A::convert(x, x_row, x_col, rows, layer.inputs, factors, factor_row);
        A::product(factors, factor_row, 1, panels<A>(layer), stride, rows, layer.outputs, layer.inputs, out,
                   out_row, finish);
    } else {
        A::product(x, x_row, x_col, panels<A>(layer), stride, rows, layer.outputs, layer.inputs, out, out_row,
                   finish);
    }
}

// first(i, block, factors, factor_row, to, to_row, finish) makes the first layer's output, not yet activated,
// of rows [i, i + block). widest: of the inputs that `factors` must hold.
template <class T>
template <class A, class First>
void Mlp<T>::forward_after(const First& first, long widest, long rows, T* out, long out_row) const {
    using Factor = typename A::Factor;
    if constexpr (std::is_same_v<A, Bf16>) std::call_once(bf16_once_, [this] { make_bf16(); });
    for (long l = 0; l + 1 < depth(); ++l) widest = std::max(widest, outputs(l));
    const long row = padded_row<T>(widest), factor_row = padded_row<Factor>(A::padded(widest));
    Arena::Scope scratch;
    T* hidden[2] = {nullptr, nullptr};
    const long most = std::min(rows, kRowBlock);
    if (depth() > 1) hidden[0] = scratch.take<T>(most * row);
    if (depth() > 2) hidden[1] = scratch.take<T>(most * row);
    Factor* factors = A::kConverts ? scratch.take<Factor>(most * factor_row) : nullptr;

    for (long i = 0; i < rows; i += kRowBlock) {
        const long block = std::min(rows - i, kRowBlock);
        const T* in = nullptr;
        for (long l = 0; l < depth(); ++l) {
            const Layer& layer = layers_[std::size_t(l)];
            const bool is_hidden = l + 1 < depth();
            T* to = is_hidden ? hidden[l % 2] : out + i * out_row;
            const long to_row = is_hidden ? row : out_row;
            const Finish<T> finish{.bias = layer.bias.get(), .floor = floor(is_hidden)};
            if (l == 0)
                first(i, block, factors, factor_row, to, to_row, finish);
            else
                multiply<A>(layer, in, row, 1, block, factors, factor_row, to, to_row, finish);
            if (activates(is_hidden))
                kernels<T>().activate(activation_, parameter_, to, row, block, layer.outputs);
            in = to;
        }
        if (normalize_)
            kernels<T>().normalize(out + i * out_row, out_row, block, outputs(), out + i * out_row, out_row);
    }
}

template <class T>
template <class A>
void Mlp<T>::forward(const T* x, long x_row, long x_col, long rows, T* out, long out_row) const {
    const auto first = [&](long i, long block, typename A::Factor* factors, long factor_row, T* to,
                           long to_row, const Finish<T>& finish) {
        multiply<A>(layers_.front(), x + i * x_row, x_row, x_col, block, factors, factor_row, to, to_row,
                    finish);
    };
    forward_after<A>(first, inputs(), rows, out, out_row);
}

template <class T>
template <class A>
void Mlp<T>::forward(const SparseRows<T>& x, long first, long rows, const T* weights, T* out,
                     long out_row) const {
    const auto sum = [&](long i, long block, typename A::Factor*, long, T* to, long to_row,
                         const Finish<T>& finish) {
        kernels<T>().gather(x, first + i, block, weights, outputs(0), outputs(0), to, to_row, finish);
    };
    forward_after<A>(sum, 0, rows, out, out_row);
}

template <class T>
std::vector<T> Mlp<T>::weights(const Layer& layer) const {
    const long nr = kernels<T>().nr;
    std::vector<T> w(std::size_t(layer.inputs * layer.outputs));
    for (long j = 0; j < layer.outputs; ++j) {
        const T* panel = layer.panels.get() + j / nr * layer.inputs * nr + j % nr;
        for (long i = 0; i < layer.inputs; ++i) w[std::size_t(i * layer.outputs + j)] = panel[i * nr];
    }
    return w;
}

template <class T>
void Mlp<T>::make_transposed(const Layer& layer) const {
    const Kernels<T>& k = kernels<T>();
    const std::vector<T> w = weights(layer);
    layer.transposed = Buffer<T>(round_up(layer.inputs, k.nr) * layer.outputs);
    k.pack(w.data(), 1, layer.outputs, layer.outputs, layer.inputs, layer.transposed.get(),
           layer.outputs * k.nr);
}

template <class T>
void Mlp<T>::make_bf16() const {
    if constexpr (std::is_same_v<T, float>)
        for (const Layer& layer : layers_) {
            const std::vector<float> w = weights(layer);
            const long depth = Bf16::padded(layer.inputs);
            layer.panels_bf16 = Buffer<bfloat16>(round_up(layer.outputs, Bf16::nr()) * depth);
            Bf16::pack(w.data(), layer.outputs, 1, layer.inputs, layer.outputs, layer.panels_bf16.get(),
                       Bf16::nr() * depth);
        }
}

// first(z, row) makes the first layer's output, not yet activated; below_first(delta, row, panels) takes the
// gradient with respect to it, with `panels` as scratch. widest: of the first layer's input, if `panels` must
// hold it.
template <class T>
template <class First, class Below>
void Mlp<T>::vjp_around(const First& first, const Below& below_first, long widest, long rows, const T* grad,
                        long grad_row, long grad_col, T* const* grad_weights, T* const* grad_biases) const {
    std::call_once(transposed_once_, [this] {
        for (std::size_t l = 1; l < layers_.size(); ++l) make_transposed(layers_[l]);
    });
    const Kernels<T>& k = kernels<T>();
    Arena::Scope scratch;

    // Forward, keeping each hidden layer before (z) and after (h) its activation, and with normalize_ the
    // output before its division.
    for (long l = 0; l < depth(); ++l) widest = std::max(widest, outputs(l));
    const long row = padded_row<T>(widest);
    std::vector<T*> z, h;
    for (long l = 0; l + (normalize_ ? 0 : 1) < depth(); ++l) {
        z.push_back(scratch.take<T>(rows * row));
        const Layer& layer = layers_[std::size_t(l)];
        if (l == 0)
            first(z.back(), row);
        else
            k.product(h[std::size_t(l) - 1], row, 1, layer.panels.get(), layer.inputs * k.nr, rows,
                      layer.outputs, layer.inputs, z.back(), row, {.bias = layer.bias.get()});
        if (l + 1 == depth()) break;
        h.push_back(scratch.take<T>(rows * row));
        for (long i = 0; i < rows; ++i) std::copy_n(z.back() + i * row, outputs(l), h.back() + i * row);
        k.activate(activation_, parameter_, h.back(), row, rows, outputs(l));
    }

    // Backward: delta is the gradient with respect to the output of layer l before its activation.
    T* delta = scratch.take<T>(rows * row);
    T* below = scratch.take<T>(rows * row);
    T* panels = scratch.take<T>(round_up(widest, k.nr) * rows);
    copy_strided(grad, grad_row, grad_col, rows, outputs(), delta, row);
    if (normalize_) k.normalize_vjp(z.back(), row, delta, row, rows, outputs());
    for (long l = depth() - 1;; --l) {
        const Layer& layer = layers_[std::size_t(l)];
        if (has_bias_) k.add_column_sums(delta, row, rows, layer.outputs, grad_biases[l]);
        if (l == 0) break;
        // dW += input^T delta: the depth of this product is the rows of the block.
        k.pack(delta, row, 1, rows, layer.outputs, panels, rows * k.nr);
        k.product(h[std::size_t(l) - 1], 1, row, panels, rows * k.nr, layer.inputs, layer.outputs, rows,
                  grad_weights[l], layer.outputs, {.accumulate = true});
        k.product(delta, row, 1, layer.transposed.get(), layer.outputs * k.nr, rows, layer.inputs,
                  layer.outputs, below, row, {});
        k.activate_vjp(activation_, parameter_, z[std::size_t(l) - 1], row, below, row, rows, layer.inputs);
        std::swap(delta, below);
    }
    below_first(delta, row, panels);
}

template <class T>
void Mlp<T>::vjp(const T* x, long x_row, long x_col, const T* grad, long grad_row, long grad_col, long rows,
                 T* grad_x, long grad_x_row, T* const* grad_weights, T* const* grad_biases) const {
    const Layer& layer = layers_.front();
    std::call_once(first_transposed_once_, [&] { make_transposed(layer); });
    const Kernels<T>& k = kernels<T>();
    const auto first = [&](T* z, long row) {
        k.product(x, x_row, x_col, layer.panels.get(), layer.inputs * k.nr, rows, layer.outputs, layer.inputs,
                  z, row, {.bias = layer.bias.get()});
    };
    const auto below = [&](const T* delta, long row, T* panels) {
        k.pack(delta, row, 1, rows, layer.outputs, panels, rows * k.nr);
        k.product(x, x_col, x_row, panels, rows * k.nr, layer.inputs, layer.outputs, rows, grad_weights[0],
                  layer.outputs, {.accumulate = true});
        k.product(delta, row, 1, layer.transposed.get(), layer.outputs * k.nr, rows, layer.inputs,
                  layer.outputs, grad_x, grad_x_row, {});
    };
    vjp_around(first, below, inputs(), rows, grad, grad_row, grad_col, grad_weights, grad_biases);
}

template <class T>
void Mlp<T>::vjp(const SparseRows<T>& x, long first, long rows, const T* weights, const T* grad,
                 long grad_row, long grad_col, T* delta, long delta_row, T* const* grad_weights,
                 T* const* grad_biases) const {
    const auto sum = [&](T* z, long row) {
        kernels<T>().gather(x, first, rows, weights, outputs(0), outputs(0), z, row,
                            {.bias = layers_.front().bias.get()});
    };
    const auto below = [&](const T* found, long row, T*) {
        for (long i = 0; i < rows; ++i) std::copy_n(found + i * row, outputs(0), delta + i * delta_row);
    };
    vjp_around(sum, below, 0, rows, grad, grad_row, grad_col, grad_weights, grad_biases);
}

template class Mlp<float>;
template class Mlp<double>;
template void Mlp<float>::forward<Full<float>>(const float*, long, long, long, float*, long) const;
template void Mlp<float>::forward<Bf16>(const float*, long, long, long, float*, long) const;
template void Mlp<double>::forward<Full<double>>(const double*, long, long, long, double*, long) const;
template void Mlp<float>::forward<Full<float>>(const SparseRows<float>&, long, long, const float*, float*,
                                               long) const;
template void Mlp<float>::forward<Bf16>(const SparseRows<float>&, long, long, const float*, float*,
                                        long) const;
template void Mlp<double>::forward<Full<double>>(const SparseRows<double>&, long, long, const double*,
                                                 double*, long) const;

}  // namespace rk
