// The operations, as the bindings call them: one file each, with the names, the arguments and the
// meaning of csrc/operations.hpp. The arithmetic A says how factors are multiplied; arrays may have any dtype
// it takes. Work is put on the context's stream; nothing waits for it.
#pragma once

#include <optional>

#include "masks.hpp"
#include "mlp.cuh"

namespace rk::cuda {

#define RK_FOR_EACH_ARITHMETIC(macro) \
    macro(Fma<float>) macro(Fma<double>) macro(Tf32) macro(Half<bfloat16>) macro(Half<float16>)

enum class Link : int { identity, exp, relu, square };

using MaybeArray = std::optional<Array>;

template <class A>
void feature_map(const Context& context, const Array& x, const Mlp<A>& map, const Array& out);

// y absent: the symmetric relation of x with itself through phi. out has three core dimensions (heads, n,
// m) where heads > 1.
template <class A>
void relation_matrix(const Context& context, const Array& x, const MaybeArray& y, const Mlp<A>* phi,
                     const Mlp<A>* psi, double scale, long heads, const Array& out);

template <class A>
void attention_scores(const Context& context, const Array& q, const Array& k, const Mlp<A>* phi,
                      const Mlp<A>* psi, double scale, const MaybeArray& mask, const Band& band,
                      const Array& out);

template <class A>
void attention(const Context& context, const Array& q, const Array& k, const Array& v, const Mlp<A>* phi,
               const Mlp<A>* psi, double scale, const MaybeArray& mask, const Band& band, const Array& out,
               const MaybeArray& lse);

template <class A>
void retrieve(const Context& context, const Array& q, const Array& keys, const Mlp<A>* phi, const Mlp<A>* psi,
              const MaybeArray& mask, const Array& values, const Array& indices);

template <class A>
void relation_matvec(const Context& context, const Array& x, const Array& y, const Array& v,
                     const Mlp<A>* phi, const Mlp<A>* psi, Link link, double scale, const Array& out);

// Gradients: float32 and float64. What they write is overwritten. grad_scale (items, n), contiguous, receives
// each row's part of the derivative with respect to `scale`.
template <class A>
void feature_map_vjp(const Context& context, const Array& x, const Mlp<A>& map, const Array& grad,
                     const Array& grad_x, const std::vector<Array>& grad_weights,
                     const std::vector<Array>& grad_biases);

template <class A>
void relation_matrix_vjp(const Context& context, const Array& f, const Array& g, const Array& grad,
                         double scale, long heads, const Array& grad_f, const Array& grad_g,
                         const Array& grad_scale);

template <class A>
void attention_vjp(const Context& context, const Array& f, const Array& g, const Array& v,
                   const MaybeArray& mask, const Band& band, double scale, const Array& out, const Array& lse,
                   const Array& grad, const Array& grad_f, const Array& grad_g, const Array& grad_v,
                   const Array& grad_scale);

}  // namespace rk::cuda
