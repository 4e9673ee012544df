// Multi-layer perceptron with packed weights: the feature maps phi and psi.
//
//   h_0 = x,   h_l = act(h_{l-1} W_l + b_l) for hidden layers,   phi(x) = h_{L-1} W_L + b_L
//
// With `normalize`, phi(x) is divided by its length; zero stays zero.
//
// Weights are packed once, when the handle is made. forward() takes a block of rows through all layers
// while its activations stay in L2; feature_map.cpp and pairs.hpp cut the rows into such blocks.
#pragma once

#include <mutex>
#include <vector>

#include "base/arrays.hpp"
#include "kernels/table.hpp"
#include "walk/arithmetic.hpp"

namespace rk {

// Rows that go through the layers together: 96 rows x 2 x 256 floats are 192 KiB, well inside an L2 of
// 1 MiB beside 256 KiB of weights; a multiple of every micro-tile's rows.
inline constexpr long kRowBlock = 96;

template <class T>
class Mlp {
   public:
    Mlp(const std::vector<Array<const T>>& weights, const std::vector<Array<const T>>& biases,
        Activation activation, T parameter, bool normalize = false);

    long inputs() const { return layers_.front().inputs; }
    long outputs() const { return layers_.back().outputs; }
    long depth() const { return long(layers_.size()); }
    long inputs(long layer) const { return layers_[std::size_t(layer)].inputs; }
    long outputs(long layer) const { return layers_[std::size_t(layer)].outputs; }
    bool has_bias() const { return has_bias_; }
    bool normalizes() const { return normalize_; }
    // Of forward() for a row, in multiply-adds (base/threads.hpp).
    double work() const;

    // out <- phi(x) in an arithmetic (arithmetic.hpp), for rows of x with any strides; out has unit column
    // stride. Any number of rows.
    template <class A>
    void forward(const T* x, long x_row, long x_col, long rows, T* out, long out_row) const;

    // The same for rows [first, first + rows) of x. The first layer, always in full precision, sums rows of
    // its W, which `weights` has row-major: the panels would have a row in as many places as there are
    // panels.
    template <class A>
    void forward(const SparseRows<T>& x, long first, long rows, const T* weights, T* out, long out_row) const;

    // Adds the gradients of sum <grad, phi(x)> with respect to weights and biases (row-major, one after
    // the other; biases may be null) to what is there, and writes that of x. At most kVjpRows rows.
    static constexpr long kVjpRows = 128;
    void vjp(const T* x, long x_row, long x_col, const T* grad, long grad_row, long grad_col, long rows,
             T* grad_x, long grad_x_row, T* const* grad_weights, T* const* grad_biases) const;

    // The same for rows [first, first + rows) of x, without the gradients of x and of the first W: both
    // follow from that of the first layer's output before its activation, which is written to `delta`.
    void vjp(const SparseRows<T>& x, long first, long rows, const T* weights, const T* grad, long grad_row,
             long grad_col, T* delta, long delta_row, T* const* grad_weights, T* const* grad_biases) const;

   private:
    struct Layer {
        long inputs, outputs;
        Buffer<T> panels;                      // W: depth = inputs, columns = outputs
        Buffer<T> bias;                        // padded to whole panels with zeros
        mutable Buffer<T> transposed;          // W^T: depth = outputs, columns = inputs
        mutable Buffer<bfloat16> panels_bf16;  // W again
    };
    // Panels of W in an arithmetic; all but T's own are made on first use.
    template <class A>
    const typename A::Factor* panels(const Layer& layer) const;
    // The floor in a layer's product that implements relu, and whether another activation must follow.
    T floor(bool hidden) const;
    bool activates(bool hidden) const;
    std::vector<T> weights(const Layer& layer) const;  // row-major, from the panels
    void make_transposed(const Layer& layer) const;
    // A layer's product in an arithmetic; `factors` is scratch for those that convert.
    template <class A>
    void multiply(const Layer& layer, const T* x, long x_row, long x_col, long rows,
                  typename A::Factor* factors, long factor_row, T* out, long out_row,
                  const Finish<T>& finish) const;
    // forward() and vjp() around the first layer, whose input is dense or sparse (mlp.cpp).
    template <class A, class First>
    void forward_after(const First& first, long widest, long rows, T* out, long out_row) const;
    template <class First, class Below>
    void vjp_around(const First& first, const Below& below_first, long widest, long rows, const T* grad,
                    long grad_row, long grad_col, T* const* grad_weights, T* const* grad_biases) const;
    void make_bf16() const;

    std::vector<Layer> layers_;
    Activation activation_;
    T parameter_;
    bool has_bias_, normalize_;
    // The first layer's transposed weights are made apart: vjp of sparse rows does without.
    mutable std::once_flag first_transposed_once_, transposed_once_, bf16_once_;
};

}  // namespace rk
