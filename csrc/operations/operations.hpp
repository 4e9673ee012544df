// The operations, as the bindings call them: one file each. Arguments are checked by the caller; leading
// dimensions are equal (broadcast ones have stride 0). A null map is the identity. Definitions:
// docs of the Python functions of the same names.
#pragma once

#include "base/arrays.hpp"
#include "kernels/table.hpp"
#include "walk/arithmetic.hpp"
#include "walk/mlp.hpp"

namespace rk {

template <class T>
void feature_map(const Array<const T>& x, const Mlp<T>& map, Precision precision, const Array<T>& out);

// y absent: the symmetric relation of x with itself through phi. out has three core dimensions (heads, n,
// m) where heads > 1.
template <class T>
void relation_matrix(const Array<const T>& x, const Array<const T>& y, const Mlp<T>* phi, const Mlp<T>* psi,
                     Precision precision, T scale, long heads, const Array<T>& out);

template <class T>
void attention_scores(const Array<const T>& q, const Array<const T>& k, const Mlp<T>* phi, const Mlp<T>* psi,
                      Precision precision, T scale, const Array<const std::uint8_t>& mask, const Band& band,
                      const Array<T>& out);

// lse may be absent.
template <class T>
void attention(const Array<const T>& q, const Array<const T>& k, const Array<const T>& v, const Mlp<T>* phi,
               const Mlp<T>* psi, Precision precision, T scale, const Array<const std::uint8_t>& mask,
               const Band& band, const Array<T>& out, const Array<T>& lse);

template <class T>
void retrieve(const Array<const T>& q, const Array<const T>& keys, const Mlp<T>* phi, const Mlp<T>* psi,
              Precision precision, const Array<const std::uint8_t>& mask, const Array<T>& values,
              const Array<std::int64_t>& indices);

template <class T>
void relation_matvec(const Array<const T>& x, const Array<const T>& y, const Array<const T>& v,
                     const Mlp<T>* phi, const Mlp<T>* psi, Precision precision, Link link, T scale,
                     const Array<T>& out);

struct NngpSeries;  // nngp_points.hpp

// Kernel of a wide random network between the rows of x and of y (absent: x, symmetric).
template <class T>
void nngp_kernel(const Array<const T>& x, const Array<const T>& y, const NngpSpec& spec,
                 const NngpSeries* series, const Array<T>& out);

// nngp_kernel of each row of x with itself.
template <class T>
void nngp_diagonal(const Array<const T>& x, const NngpSpec& spec, const NngpSeries* series,
                   const Array<T>& out);

// A random network by its key; step: the activation is 1 for z > 0 and 0 otherwise.
struct RandomNetwork {
    std::uint64_t key;
    std::vector<long> widths;
    bool step;
    Activation activation;
    double parameter, weight_std, bias_std;
};

// Activations of the last layer over sqrt(its width) and times weight_std, of the rows of x.
template <class T>
void random_features(const Array<const T>& x, const RandomNetwork& net, const Array<T>& out);

// Gradients. grad_biases is empty for a map without biases. What they are added to or written over is
// said in each file.
//
// grad_scale, where it is not null, receives each row's part of the derivative with respect to `scale`,
// (items, n) contiguous: with H_i = sum_j dR_ij g_j, which the gradient of f_i is `scale` times, that is
// <f_i, H_i>.
template <class T>
void feature_map_vjp(const Array<const T>& x, const Mlp<T>& map, const Array<const T>& grad,
                     const Array<T>& grad_x, const std::vector<T*>& grad_weights,
                     const std::vector<T*>& grad_biases);

template <class T>
void relation_matrix_vjp(const Array<const T>& f, const Array<const T>& g, const Array<const T>& grad,
                         T scale, long heads, const Array<T>& grad_f, const Array<T>& grad_g,
                         double* grad_scale);

template <class T>
void attention_vjp(const Array<const T>& f, const Array<const T>& g, const Array<const T>& v,
                   const Array<const std::uint8_t>& mask, const Band& band, T scale,
                   const Array<const T>& out, const Array<const T>& lse, const Array<const T>& grad,
                   const Array<T>& grad_f, const Array<T>& grad_g, const Array<T>& grad_v,
                   double* grad_scale);

// Value of each row (weighted) and both gradients of a loss over all pairs of the features f and g.
template <class T>
void relation_loss(const Array<const T>& f, const Array<const T>& g, PairTargets<T> targets, Loss loss,
                   T scale, double* values, T* grad_f, T* grad_g, double* grad_scale);

}  // namespace rk
