// The operations, as the bindings call them, one file each, with the names and arguments of
// csrc/operations/operations.hpp. The arithmetic A defines how factors are multiplied; arrays may have any
// dtype that A supports. Functions put their work on the context's stream and return without waiting for it.
// Outputs are overwritten; none is accumulated into.
#pragma once

#include "base/names.hpp"
#include "mlp.cuh"
#include "scoring.hpp"

namespace rk::cuda {

#define RK_FOR_EACH_ARITHMETIC(macro) \
    macro(Fma<float>) macro(Fma<double>) macro(Tf32) macro(Half<bfloat16>) macro(Half<float16>)

// R = scale <phi(rows), psi(columns)>. A null map is the identity.
template <class A>
struct Relation {
    Array rows, columns;
    const Mlp<A>*phi = nullptr, *psi = nullptr;
    double scale = 1;
    Segments segments{};  // of attention and retrieval
};

template <class A>
void feature_map(const Context& context, const Array& x, const Mlp<A>& map, const Array& out);

// out <- x / |x|, row by row, as the last step of a map that normalizes.
void normalize(const Context& context, const Array& x, const Array& out);

// link(R). Without columns, the symmetric relation of the rows with themselves through phi. out has three
// core dimensions (heads, n, m) if heads > 1.
template <class A>
void relation_matrix(const Context& context, const Relation<A>& relation, Link link, long heads,
                     const Array& out);

template <class A>
void attention_scores(const Context& context, const Relation<A>& relation, const Scoring& scoring,
                      const Array& out);

// lse may be absent.
template <class A>
void attention(const Context& context, const Relation<A>& relation, const Array& values,
               const Scoring& scoring, const Array& out, const Array& lse);

// The function on the relations of relational attention: a link of inner products, else an activation.
struct RelationActivation {
    bool is_link = false;
    Link link = Link::identity;
    Activation activation = Activation::identity;
    double parameter = 0;

    static RelationActivation named(const std::string& name, double parameter) {
        for (const Named<Link>& row : kLinks)
            if (name == row.name && !is_of_distance(row.value)) return {.is_link = true, .link = row.value};
        return {.activation = activation_named(name), .parameter = parameter};
    }
    RK_HOST_DEVICE bool is_identity() const {
        return is_link ? link == Link::identity : activation == Activation::identity;
    }
};

// Arrays of equal leading dimensions: q and k (..., h, n or m, d), v (..., h, m, d_v), and q_rel and k_rel
// (..., R, n or m, d_r).
struct RelationalSides {
    Array q, k, q_rel, k_rel, v;
    double scale = 1, rel_scale = 1;
    RelationActivation activation = {};

    long heads() const { return q.dim(3); }
    long relations() const { return q_rel.dim(3); }
    long items() const { return q.batch(3); }
};

// (..., h, n, R), (..., h, n, d_v) and (..., h, n). lse is contiguous and may be absent.
struct RelationalResult {
    Array relations, values, lse;
};

template <class A>
void relational_attention(const Context& context, const RelationalSides& sides, const Allowed& allowed,
                          const RelationalResult& out);

// The relation's scale is not applied.
template <class A>
void retrieve(const Context& context, const Relation<A>& relation, const Searchable& searchable,
              const Array& values, const Array& indices);

// The pairs at or above the thresholds, counted but not stored: a second walk writes them.
struct FoundPairs {
    // offsets (rows + 1), indices and values (total) are contiguous. The workspace of the search must still
    // be valid.
    std::function<void(const Array& offsets, const Array& indices, const Array& values)> write;
};

// thresholds (..., n) has the dtype of the sums. `total`, one element, receives the number of pairs. The
// relation's scale is not applied.
template <class A>
FoundPairs retrieve_above(const Context& context, const Relation<A>& relation, const Searchable& searchable,
                          const Array& thresholds, const Array& total);

template <class A>
void relation_matvec(const Context& context, const Relation<A>& relation, const Array& values, Link link,
                     const Array& out);

// Gradients, of float32 and float64. The rows and columns of the relations are features: their maps are null.
//
// grad_scale (items, n), contiguous, receives each row's part of the derivative with respect to `scale`. For
// R it is <f_i, H_i>, where H_i = sum_j dR_ij g_j (the gradient of f_i is `scale` times H_i). For link(R) it
// is sum_j dR_ij r_ij with R = scale r.

// grad_x, grad_weights and grad_biases are overwritten. grad_biases is empty for a map without biases.
template <class A>
void feature_map_vjp(const Context& context, const Array& x, const Mlp<A>& map, const Array& grad,
                     const Array& grad_x, const std::vector<Array>& grad_weights,
                     const std::vector<Array>& grad_biases);

// The gradient of normalize.
void normalize_vjp(const Context& context, const Array& x, const Array& grad, const Array& grad_x);

// grad_f, grad_g and grad_scale are overwritten. Absent ones are not computed; grad_scale is absent if grad_f
// is.
template <class A>
void relation_matrix_vjp(const Context& context, const Relation<A>& relation, Link link, long heads,
                         const Array& grad, const Array& grad_f, const Array& grad_g,
                         const Array& grad_scale);

template <class A>
void relation_matvec_vjp(const Context& context, const Relation<A>& relation, const Array& values,
                         const Array& grad, Link link, const Array& grad_f, const Array& grad_g,
                         const Array& grad_v, const Array& grad_scale);

// grad_f, grad_g, grad_v and grad_scale are overwritten; out and lse are what attention() gave, lse
// contiguous. grad_g and grad_v are summed over the items along which their strides are 0. grad and grad_lse
// are the gradients of out and lse; grad_lse may be absent. grad_bias has the bias's shape, with sizes of 1
// where it was broadcast; absent: it is not computed.
template <class A>
void attention_vjp(const Context& context, const Relation<A>& relation, const Array& values,
                   const Scoring& scoring, const Array& out, const Array& lse, const Array& grad,
                   const Array& grad_lse, const Array& grad_f, const Array& grad_g, const Array& grad_v,
                   const Array& grad_bias, const Array& grad_scale);

// Of the sides of relational attention, contiguous. scale (..., h, n) and rel_scale (..., R, n) receive each
// row's part.
struct RelationalGradient {
    Array q, k, q_rel, k_rel, v, scale, rel_scale;
};

// Of `grad`, gradients with respect to `result`, which relational_attention returned.
template <class A>
void relational_attention_vjp(const Context& context, const RelationalSides& sides, const Allowed& allowed,
                              const RelationalResult& result, const RelationalResult& grad,
                              const RelationalGradient& to);

// What relation_loss compares R (n, m) with: a matrix of targets, or labels of both sides (int64,
// contiguous), equal for 1 and unequal for 0. weight (n, m) may be absent; all weights are times `factor`.
// inverse_mass (n), for the softmax loss: one over the sum of a row's targets.
struct PairTargets {
    Array matrix, row_labels, column_labels, weight, inverse_mass;
    double factor = 1;
};

// values (n) receives the loss of each row. grad_g may be absent.
template <class A>
void relation_loss(const Context& context, const Relation<A>& relation, const PairTargets& targets, Loss loss,
                   const Array& values, const Array& grad_f, const Array& grad_g, const Array& grad_scale);

// grad: of the shape of the scores.
template <class A>
void attention_scores_vjp(const Context& context, const Relation<A>& relation, const Scoring& scoring,
                          const Array& grad, const Array& grad_f, const Array& grad_g, const Array& grad_bias,
                          const Array& grad_scale);

}  // namespace rk::cuda
