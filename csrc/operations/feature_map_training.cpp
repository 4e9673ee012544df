// F = phi(x) and its vector-Jacobian product for a training step: weights are read where they are, since they
// change after each step, and the hidden layers of the forward pass are kept for the backward pass.
//
// Both passes process layer after layer, all rows at a time. Memory is that of the hidden layers, as in
// PyTorch; feature_map and feature_map_vjp, which compute them again, need none of it.
#include "operations/operations.hpp"
#include "walk/matrix_product.hpp"

namespace rk {

namespace {

// The hidden layers of a block of rows in one buffer: each before (z) and after (h) its activation. ReLU
// needs only h, which has the sign of z. If the output is divided by its length, it is kept as well, before
// the division.
template <class T>
class HiddenLayers {
   public:
    HiddenLayers(const Layers<T>& map, long rows) {
        const bool both = map.activation != Activation::relu && map.activation != Activation::identity;
        for (long l = 0; l + 1 < map.depth(); ++l) {
            const long row = padded_row<T>(map.outputs(l));
            at_.push_back({size_, size_ + (both ? rows * row : 0), row});
            size_ += (both ? 2 : 1) * rows * row;
        }
        if (map.normalize) {
            const long row = padded_row<T>(map.outputs(map.depth() - 1));
            at_.push_back({size_, size_, row});
            size_ += rows * row;
        }
    }
    long size() const { return size_; }
    long row(long layer) const { return at_[std::size_t(layer)].row; }
    long z(long layer) const { return at_[std::size_t(layer)].z; }
    long h(long layer) const { return at_[std::size_t(layer)].h; }

   private:
    struct Place {
        long z, h, row;
    };
    std::vector<Place> at_;
    long size_ = 0;
};

template <class T>
Strided<const T> strided(const Array<const T>& a) {
    return {a.data, a.step(2), a.step(1)};
}

// Calls f(first, rows) for blocks of the rows, on all threads if there are enough values.
template <class F>
void for_rows(const Team& team, long rows, long cols, const F& f) {
    constexpr long kRows = 96;
    const int threads = rows * cols < (1L << 16) ? 1 : team.size();
    Team(threads).for_each(ceil_div(rows, kRows),
                           [&](long b) { f(b * kRows, std::min(kRows, rows - b * kRows)); });
}

template <class T>
void forward(const Team& team, const Array<const T>& x, long first, long rows, const Layers<T>& map,
             T* hidden, const Array<T>& out) {
    const HiddenLayers<T> layers(map, rows);
    const Kernels<T>& k = kernels<T>();
    Strided<const T> in = strided(x);
    in.data += first * in.row;
    for (long l = 0; l < map.depth(); ++l) {
        const bool is_hidden = l + 1 < map.depth();
        const bool is_kept = is_hidden || map.normalize;
        T* z = is_kept ? hidden + layers.z(l) : out.data + first * out.step(2);
        T* h = is_kept ? hidden + layers.h(l) : z;
        const long row = is_kept ? layers.row(l) : out.step(2);
        const T floor = is_hidden && map.activation == Activation::relu ? T(0) : Finish<T>{}.floor;
        const T* bias = map.biases.empty() ? nullptr : map.biases[std::size_t(l)].data;
        const auto activate = [&](long i, long n, long j, long m) {
            if (h == z) return;
            for (long r = i; r < i + n; ++r) std::copy_n(z + r * row + j, m, h + r * row + j);
            k.activate(map.activation, map.parameter, h + i * row + j, row, n, m);
        };
        multiply(team, in, strided(map.weights[std::size_t(l)]), rows, map.outputs(l), map.inputs(l), z, row,
                 bias, floor, activate);
        in = {h, row, 1};
    }
    if (map.normalize)
        for_rows(team, rows, out.dim(1), [&](long i, long n) {
            k.normalize(in.data + i * in.row, in.row, n, out.dim(1), out.data + (first + i) * out.step(2),
                        out.step(2));
        });
}

template <class T>
void sum_columns(const Team& team, const Strided<const T>& a, long rows, long cols, T* sums) {
    constexpr long kColumns = 64;
    const int threads = rows * cols < (1L << 18) ? 1 : team.size();
    Team(threads).for_each(ceil_div(cols, kColumns), [&](long task) {
        const long j = task * kColumns, m = std::min(kColumns, cols - j);
        std::fill_n(sums + j, m, T(0));
        for (long i = 0; i < rows; i += kChainDepth)
            kernels<T>().add_column_sums(a.data + i * a.row + j, a.row, std::min(kChainDepth, rows - i), m,
                                         sums + j);
    });
}

}  // namespace

template <class T>
long hidden_size(const Layers<T>& map, long rows) {
    return HiddenLayers<T>(map, rows).size();
}

template <class T>
void feature_map_forward(const Array<const T>& x, const Layers<T>& map, T* hidden, const Array<T>& out) {
    constexpr long kRows = 2048;  // at a time, if the hidden layers are not kept
    const Team team(num_threads());
    const long rows = x.dim(2);
    if (hidden) return forward(team, x, 0, rows, map, hidden, out);
    const Buffer<T> space(hidden_size(map, std::min(rows, kRows)));
    for (long i = 0; i < rows; i += kRows)
        forward(team, x, i, std::min(kRows, rows - i), map, space.get(), out);
}

template <class T>
void feature_map_backward(const Array<const T>& x, const Layers<T>& map, const T* hidden,
                          const Array<const T>& grad, const MapGradient<T>& to) {
    const Team team(num_threads());
    const Kernels<T>& k = kernels<T>();
    const long rows = x.dim(2);
    const HiddenLayers<T> layers(map, rows);
    constexpr T none = Finish<T>{}.floor;
    const auto nothing = [](long, long, long, long) {};

    long lowest = 0;  // the first layer with a gradient that is wanted
    const auto wanted = [&](long l) {
        return to.weights[std::size_t(l)] || (!to.biases.empty() && to.biases[std::size_t(l)]);
    };
    while (to.x.empty() && lowest < map.depth() && !wanted(lowest)) ++lowest;
    if (lowest == map.depth()) return;

    long widest = grad.step(1) == 1 && !map.normalize ? 0 : map.outputs(map.depth() - 1);
    for (long l = lowest; l + 1 < map.depth(); ++l) widest = std::max(widest, map.outputs(l));
    const long row = padded_row<T>(widest);
    const Buffer<T> space(2 * rows * row);
    T* free[2] = {space.get(), space.get() + rows * row};
    // delta: the gradient with respect to the output of layer l before its activation.
    Strided<const T> delta = strided(grad);
    if (delta.col != 1 || map.normalize) {
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < grad.dim(1); ++j)
                free[0][i * row + j] = delta.data[i * delta.row + j * delta.col];
        if (map.normalize) {
            const long last = map.depth() - 1, z_row = layers.row(last);
            for_rows(team, rows, grad.dim(1), [&](long i, long n) {
                k.normalize_vjp(hidden + layers.z(last) + i * z_row, z_row, free[0] + i * row, row, n,
                                grad.dim(1));
            });
        }
        delta = {free[0], row, 1};
        std::swap(free[0], free[1]);
    }
    for (long l = map.depth() - 1;; --l) {
        const std::size_t at = std::size_t(l);
        const long inputs = map.inputs(l), outputs = map.outputs(l);
        if (!to.biases.empty() && to.biases[at]) sum_columns(team, delta, rows, outputs, to.biases[at]);
        if (to.weights[at]) {
            const Strided<const T> in =
                l == 0 ? strided(x) : Strided<const T>{hidden + layers.h(l - 1), layers.row(l - 1), 1};
            multiply(team, in.transposed(), delta, inputs, outputs, rows, to.weights[at], outputs,
                     static_cast<const T*>(nullptr), none, nothing);
        }
        const Strided<const T> weights = strided(map.weights[at]).transposed();
        if (l == lowest) {
            if (l == 0 && !to.x.empty())
                multiply(team, delta, weights, rows, inputs, outputs, to.x.data, to.x.step(2),
                         static_cast<const T*>(nullptr), none, nothing);
            return;
        }
        T* below = free[0];
        const T* z = hidden + layers.z(l - 1);
        const long z_row = layers.row(l - 1);
        multiply(team, delta, weights, rows, inputs, outputs, below, row, static_cast<const T*>(nullptr),
                 none, [&](long i, long n, long j, long m) {
                     k.activate_vjp(map.activation, map.parameter, z + i * z_row + j, z_row,
                                    below + i * row + j, row, n, m);
                 });
        delta = {below, row, 1};
        std::swap(free[0], free[1]);
    }
}

#define RK_INSTANTIATE(T)                                                                            \
    template long hidden_size(const Layers<T>&, long);                                               \
    template void feature_map_forward(const Array<const T>&, const Layers<T>&, T*, const Array<T>&); \
    template void feature_map_backward(const Array<const T>&, const Layers<T>&, const T*,            \
                                       const Array<const T>&, const MapGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
